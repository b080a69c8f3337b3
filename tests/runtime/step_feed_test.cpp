// ctest: opencl
#include "runtime/step_feed.h"

#include <functional>
#include <thread>

#include "memory/usage.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

constexpr std::int64_t kD = 256;
constexpr std::int64_t kRows = 6;
constexpr std::int64_t kWords = 100;
constexpr std::int64_t kV = 1000;
StepFeedShape Shape() {
  StepFeedShape shape;
  shape.rows = kRows;
  shape.D = kD;
  shape.batch_words = kWords;
  return shape;
}

// Steps whose batch and rows are random words, one after the other.
class StepFeedTest : public test::ClTest, public ::testing::WithParamInterface<Shapes> {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    if (GetParam() == Shapes::kGpu && device().info().max_work_group_size < 256) {
      GTEST_SKIP() << device().info().name << " runs no work-groups of 256";
    }
    control_ = device().Allocate(cl::kFeedControlWords * sizeof(float));
    if (!ClSharedBuffer::Allocate(device(), 64)) {
      GTEST_SKIP() << device().info().name << " has no shared memory";
    }
    feed_ = Make();
    batch_ = device().Allocate(kWords * sizeof(float));
    x_ = test::Upload(device(), std::vector<float>(kRows * kD, -1.0F));
    logits_ = device().Allocate(kRows * kV * sizeof(float));
    best_ = device().Allocate(kRows * cl::kArgmaxParts * sizeof(cl::ArgmaxPart));
  }
  cl::Kernels& kernels() const {
    static std::unique_ptr<cl::Kernels> of_shapes[2];
    auto& kernels = of_shapes[static_cast<int>(GetParam())];
    if (kernels) return *kernels;
    cl::DeviceTraits traits = GetParam() == Shapes::kCpu ? cl::CpuTraits(4) : cl::GpuTraits(4);
    traits.nv_compute = cl::TraitsOf(device()).nv_compute;  // the fences of this device
    traits.hand_over_words = 512;
    traits.hand_over_take_words = 3 * kD;  // more rows wait in a launch of their own
    kernels = std::make_unique<cl::Kernels>(device(), "", traits);
    return *kernels;
  }
  std::unique_ptr<StepFeed> Make(std::uint64_t turns = 0) const {
    return StepFeed::Make(device(), kernels(), Shape(), control_.get(), turns);
  }

  // Begins a step of T rows with a batch that is full of `seed`'s words, and enqueues it.
  void Begin(StepFeed& feed, std::int64_t T, unsigned seed) {
    Write(feed, T, seed);
    feed.Take(now_, batch_.get(), x_.get());
    device().Flush();
  }
  void Write(StepFeed& feed, std::int64_t T, unsigned seed) {
    now_.T = T;
    now_.words = kWords - static_cast<std::int64_t>(seed % 3);
    words_ = test::RandomFloats(static_cast<std::size_t>(now_.words), seed);
    rows_ = test::RandomFloats(static_cast<std::size_t>(T * kD), seed + 1000);
    std::ranges::copy(words_, feed.Begin().begin());
  }
  void Feed(StepFeed& feed) const {
    std::ranges::copy(rows_, feed.rows());
    feed.Feed();
  }
  // That the device has the batch and the rows.
  void ExpectThere() const {
    EXPECT_EQ(test::Download<float>(device(), batch_, words_.size()), words_);
    EXPECT_EQ(test::Download<float>(device(), x_, rows_.size()), rows_);
  }
  // Publishes random logits and compares the parts with those of the plain kernel.
  void PublishAndCompare(StepFeed& feed, std::int64_t rows, unsigned seed,
                         const std::function<void()>& meanwhile) const {
    const auto logits = test::RandomFloats(static_cast<std::size_t>(rows * kV), seed);
    const auto n = static_cast<std::size_t>(rows * cl::kArgmaxParts);
    device().BlockingWrite(logits_.get(), 0, logits.data(), logits.size() * sizeof(float));
    kernels().Argmax({{logits_.get(), 0}, rows, kV, best_.get()});
    const auto want = test::Download<cl::ArgmaxPart>(device(), best_, n);
    feed.PublishIds({logits_.get(), 0}, rows, kV);
    device().Flush();
    meanwhile();
    std::vector<cl::ArgmaxPart> got(n);
    feed.AwaitIds(got);
    for (std::size_t i = 0; i < n; ++i) {
      ASSERT_EQ(got[i].id, want[i].id) << i;
      ASSERT_EQ(got[i].value, want[i].value) << i;
    }
  }

  ClBuffer control_;
  std::unique_ptr<StepFeed> feed_;
  ClBuffer batch_, x_;
  ClBuffer logits_, best_;  // kept: to free device memory a driver may wait for all kernels
  Batch now_;
  std::vector<float> words_, rows_;
};

TEST_P(StepFeedTest, RowsArriveThatComeBeforeOrAfterTheLaunch) {
  for (unsigned step = 0; step < 12; ++step) {
    const std::int64_t T = 1 + step % kRows;
    if (step % 2 == 0) {
      Begin(*feed_, T, step);
      EXPECT_TRUE(feed_->awaited());
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      Feed(*feed_);
    } else {
      Write(*feed_, T, step);
      Feed(*feed_);
      feed_->Take(now_, batch_.get(), x_.get());
    }
    EXPECT_FALSE(feed_->awaited());
    ExpectThere();
    EXPECT_NO_THROW(feed_->EndStep());
  }
}

// Each step is begun before the ids of the one before are there.
TEST_P(StepFeedTest, StepsAreEnqueuedAheadOfIds) {
  Begin(*feed_, 1, 1);
  for (unsigned step = 2; step < 40; ++step) {
    Feed(*feed_);
    const std::int64_t rows = now_.T;
    PublishAndCompare(*feed_, rows, step, [&] { Begin(*feed_, 1 + step % kRows, step); });
    EXPECT_NO_THROW(feed_->EndStep());
    EXPECT_TRUE(feed_->awaited());
  }
  Feed(*feed_);
  ExpectThere();
}

TEST_P(StepFeedTest, ADroppedStepLeavesXAndTheNextOneGoesOn) {
  for (const std::int64_t T : {std::int64_t{1}, kRows}) {
    Begin(*feed_, T, 7);
    Feed(*feed_);
    ExpectThere();
    const std::vector<float> before = rows_;
    Begin(*feed_, T, 8);
    feed_->Drop();
    EXPECT_FALSE(feed_->awaited());
    ASSERT_TRUE(device().Drain(Seconds{20}));
    EXPECT_EQ(test::Download<float>(device(), x_, before.size()), before);
    Begin(*feed_, T, 9);
    Feed(*feed_);
    ExpectThere();
    EXPECT_TRUE(feed_->works());
  }
}

TEST_P(StepFeedTest, AKernelThatWaitsInVainGivesUp) {
  for (const std::int64_t T : {std::int64_t{1}, kRows}) {
    const auto feed = Make(/*turns=*/1000);
    Begin(*feed, T, 3);
    device().Finish();
    EXPECT_TRUE(feed->late());  // the caller took long, which is no error
    feed->Drop();
    EXPECT_NO_THROW(feed->EndStep());
    EXPECT_TRUE(feed->works());
    Begin(*feed, T, 4);
    device().Finish();
    Feed(*feed);  // too late, and nobody looked
    try {
      feed->EndStep();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const OpenClError& error) {
      EXPECT_NE(std::string(error.what()).find("gave up after 1000 turns"), std::string::npos)
          << error.what();
    }
    EXPECT_FALSE(feed->works());
  }
}

TEST_P(StepFeedTest, ItsEndDropsAStep) {
  {
    const auto feed = Make();
    Begin(*feed, 1, 5);
  }
  ASSERT_TRUE(device().Drain(Seconds{20}));
}

TEST_P(StepFeedTest, ItsBytesAreThoseOfTheShape) {
  EXPECT_EQ(feed_->bytes(), static_cast<std::uint64_t>(Shape().words()) * sizeof(float));
}

INSTANTIATE_TEST_SUITE_P(Shapes, StepFeedTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
