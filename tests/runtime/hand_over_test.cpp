// ctest: opencl
#include "runtime/hand_over.h"

#include <functional>
#include <thread>

#include "memory/usage.h"
#include "runtime/hand_over_events.h"
#include "runtime/hand_over_polled.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

void ExpectThrowsNaming(const std::function<void()>& call, std::initializer_list<const char*> words,
                        const std::string& device) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const OpenClError& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find(device), std::string::npos) << what;
    for (const char* word : words) EXPECT_NE(what.find(word), std::string::npos) << what;
  }
}

struct Param {
  HandOverKind kind;
  Shapes shapes;
};
void PrintTo(const Param& p, std::ostream* os) {
  *os << Name(p.kind) << (p.shapes == Shapes::kCpu ? "_cpu_shapes" : "_gpu_shapes");
}

// Every layer hands over x itself and adds the host's random sum to it, so that each hand-over
// shows, bit by bit, whether all before it were right.
class Chain {
 public:
  Chain(const ClDevice& device, std::int64_t D, std::int64_t K, std::int64_t max_rows)
      : device_(device),
        D_(D),
        K_(K),
        x_(test::RandomFloats(static_cast<std::size_t>(max_rows * D), 1)),
        ids_(static_cast<std::size_t>(max_rows * K + kLayers)),
        weights_(test::RandomFloats(ids_.size(), 2)),
        sums_(test::RandomFloats(x_.size() + kLayers, 3)) {
    std::mt19937 random(4);
    for (std::int32_t& id : ids_) id = static_cast<std::int32_t>(random());
    x_buffer_ = test::Upload(device, x_);
    ids_buffer_ = test::Upload(device, ids_);
    weights_buffer_ = test::Upload(device, weights_);
  }
  static constexpr std::int64_t kLayers = 40;  // of a step

  // What the enqueuing thread does. Ids and weights of layer l begin at l.
  void Enqueue(HandOver& hand_over, std::int64_t layers = kLayers) const {
    for (std::int64_t l = 0; l < layers; ++l) {
      hand_over.Publish({x_buffer_.get(), 0}, {ids_buffer_.get(), l}, {weights_buffer_.get(), l});
      hand_over.Take({x_buffer_.get(), 0}, D_);
    }
  }

  // The same, but each sum is taken after the next layer was published, so that the host has two
  // layers on their way.
  void EnqueueDeferred(HandOver& hand_over, std::int64_t layers = kLayers) const {
    for (std::int64_t l = 0; l < layers; ++l) {
      hand_over.Publish({x_buffer_.get(), 0}, {ids_buffer_.get(), l}, {weights_buffer_.get(), l});
      if (l > 0) hand_over.Take({x_buffer_.get(), 0}, D_);
    }
    hand_over.Take({x_buffer_.get(), 0}, D_);
  }

  // What the computing thread does for one layer: false where a word was wrong.
  bool Compute(HandOver& hand_over, std::int64_t T, std::int64_t l) {
    const HandOverInput input = hand_over.Await();
    bool right = true;
    for (std::int64_t i = 0; i < T * K_; ++i) {
      right = right && input.ids[i] == ids_[l + i] && input.weights[i] == weights_[l + i];
    }
    EXPECT_TRUE(right) << "ids or weights of layer " << l << " of " << T << " rows";
    float* sum = hand_over.sum();
    for (std::int64_t i = 0; i < T * D_; ++i) {
      if (input.h[i] != x_[i] && right) {
        ADD_FAILURE() << "layer " << l << " of " << T << " rows, word " << i << ": got "
                      << input.h[i] << ", want " << x_[i];
        right = false;
      }
      sum[i] = sums_[l + i];
      x_[i] += sum[i];
    }
    hand_over.Deliver();
    return right;
  }

  bool Step(HandOver& hand_over, std::int64_t T) {
    hand_over.BeginStep(T);
    std::thread enqueuing([&] { Enqueue(hand_over); });
    bool right = true;
    for (std::int64_t l = 0; l < kLayers; ++l) right = Compute(hand_over, T, l) && right;
    enqueuing.join();
    device_.Finish();
    hand_over.EndStep();
    return right && XIsRight();
  }

  // Layer l sees the sums of all layers before l - 1.
  bool DeferredStep(HandOver& hand_over, std::int64_t T) {
    hand_over.BeginStep(T);
    std::thread enqueuing([&] { EnqueueDeferred(hand_over); });
    std::vector<float> late(static_cast<std::size_t>(T * D_));  // the sum of the layer before
    bool right = true;
    for (std::int64_t l = 0; l < kLayers; ++l)
      right = ComputeDeferred(hand_over, T, l, late) && right;
    enqueuing.join();
    for (std::size_t i = 0; i < late.size(); ++i) x_[i] += late[i];
    device_.Finish();
    hand_over.EndStep();
    return right && XIsRight();
  }

  // x_ is what the device publishes for layer l; `late` comes with layer l + 1.
  bool ComputeDeferred(HandOver& hand_over, std::int64_t T, std::int64_t l,
                       std::vector<float>& late) {
    const HandOverInput input = hand_over.Await();
    bool right = true;
    for (std::int64_t i = 0; i < T * K_; ++i) {
      right = right && input.ids[i] == ids_[l + i] && input.weights[i] == weights_[l + i];
    }
    for (std::int64_t i = 0; i < T * D_; ++i) right = right && input.h[i] == x_[i];
    EXPECT_TRUE(right) << "input of layer " << l << " of " << T << " rows";
    for (std::int64_t i = 0; i < T * D_; ++i) {
      hand_over.sum()[i] = sums_[l + i];
      x_[i] += late[i];
      late[i] = sums_[l + i];
    }
    hand_over.Deliver();
    return right;
  }

  // x on the device is what the host has computed.
  bool XIsRight() const { return test::Download<float>(device_, x_buffer_, x_.size()) == x_; }

 private:
  const ClDevice& device_;
  std::int64_t D_, K_;
  std::vector<float> x_;
  std::vector<std::int32_t> ids_;
  std::vector<float> weights_, sums_;
  ClBuffer x_buffer_, ids_buffer_, weights_buffer_;
};

class HandOverTest : public test::ClTest, public ::testing::WithParamInterface<Param> {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    if (GetParam().shapes == Shapes::kGpu && device().info().max_work_group_size < 256) {
      GTEST_SKIP() << device().info().name << " runs no work-groups of 256";
    }
    if (polled() && !ClSharedBuffer::Allocate(device(), 64)) {
      GTEST_SKIP() << device().info().name << " has no shared memory";
    }
  }
  bool polled() const { return GetParam().kind == HandOverKind::kPolled; }
  std::string name() const { return device().info().name; }

  cl::Kernels& kernels() const {
    static std::unique_ptr<cl::Kernels> of_shapes[2];
    auto& kernels = of_shapes[static_cast<int>(GetParam().shapes)];
    if (kernels) return *kernels;
    const int nv_compute = cl::TraitsOf(device()).nv_compute;
    cl::DeviceTraits traits =
        GetParam().shapes == Shapes::kCpu ? cl::CpuTraits(4) : cl::GpuTraits(4);
    traits.nv_compute = nv_compute;  // the fences of this device
    traits.hand_over_words = 1024;   // so that small steps take several work-groups
    traits.hand_over_take_words = 1024;
    kernels = std::make_unique<cl::Kernels>(device(), "", traits);
    return *kernels;
  }
  std::unique_ptr<HandOver> Make(const HandOverShape& shape, std::uint64_t wait_turns = 0) const {
    return MakeHandOver(device(), kernels(), shape, GetParam().kind, wait_turns);
  }
  std::unique_ptr<HandOver> MakeWithWatchdog(const HandOverShape& shape, Seconds watchdog) const {
    if (!polled()) {
      return std::make_unique<EventHandOver>(device(), kernels(), shape, watchdog);
    }
    const auto words = cl::HandOverWords(shape.max_rows, shape.D, shape.K);
    return std::make_unique<PolledHandOver>(
        device(), kernels(), shape,
        *ClSharedBuffer::Allocate(device(), static_cast<std::size_t>(words * 4)), 0, watchdog);
  }
};

TEST_P(HandOverTest, EveryWordArrivesThroughManyStepsOfChangingRows) {
  for (const std::int64_t D : {128, 97}) {  // rows that can be loaded by 16 bytes, and not
    constexpr std::int64_t kRows = 300;     // more than the device adds at once
    const auto hand_over = Make({D, 6, kRows});
    Chain chain(device(), D, 6, kRows);
    for (const std::int64_t T : {1, 8, 1, 9, 2, 17, 1, 32, 33, 3, 300, 1, 31, 1, 1, 5, 257, 1, 4}) {
      ASSERT_TRUE(chain.Step(*hand_over, T)) << "D " << D << ", T " << T;
      EXPECT_EQ(hand_over->kind(),
                polled() && T <= kPolledRows ? HandOverKind::kPolled : HandOverKind::kEvents);
    }
    EXPECT_GT(hand_over->wait_s(), 0);
  }
}

TEST_P(HandOverTest, TwoLayersMayBeOnTheirWay) {
  for (const std::int64_t D : {128, 97}) {
    const auto hand_over = Make({D, 6, 300});
    Chain chain(device(), D, 6, 300);
    for (const std::int64_t T : {1, 2, 32, 3, 1}) {
      ASSERT_TRUE(chain.DeferredStep(*hand_over, T)) << "D " << D << ", T " << T;
      ASSERT_TRUE(chain.Step(*hand_over, T == 2 ? 40 : T)) << "D " << D << ", T " << T;
    }
  }
}

// What the next layer is published with does not reach the one that the host has.
TEST_P(HandOverTest, TheNextLayerIsThereWhileTheHostComputesTheFirst) {
  constexpr std::int64_t T = 3, D = 64, K = 2;
  const auto hand_over = Make({D, K, 32});
  const std::vector<float> first = test::RandomFloats(T * D, 1);
  const std::vector<float> second = test::RandomFloats(T * D, 2);
  const ClBuffer of_first = test::Upload(device(), first);
  const ClBuffer of_second = test::Upload(device(), second);
  const ClBuffer x = test::Upload(device(), std::vector<float>(T * D, 0.0F));
  hand_over->BeginStep(T);
  hand_over->Publish({of_first.get(), 0}, {of_first.get(), 0}, {of_first.get(), 0});
  hand_over->Publish({of_second.get(), 0}, {of_second.get(), 0}, {of_second.get(), 0});
  device().Finish();  // no one has taken anything, so the queue ends with both there
  HandOverInput in = hand_over->Await();
  EXPECT_EQ(std::vector<float>(in.h, in.h + T * D), first);
  std::fill_n(hand_over->sum(), T * D, 1.0F);
  hand_over->Deliver();
  in = hand_over->Await();
  EXPECT_EQ(std::vector<float>(in.h, in.h + T * D), second);
  std::fill_n(hand_over->sum(), T * D, 4.0F);
  hand_over->Take({x.get(), 0}, D);
  EXPECT_EQ(test::Download<float>(device(), x, T * D), std::vector<float>(T * D, 1.0F));
  hand_over->Deliver();
  hand_over->Take({x.get(), 0}, D);
  EXPECT_EQ(test::Download<float>(device(), x, T * D), std::vector<float>(T * D, 5.0F));
  hand_over->EndStep();
}

TEST_P(HandOverTest, AThirdLayerIsRefused) {
  const auto hand_over = Make({64, 2, 64});
  const ClBuffer x = test::Upload(device(), std::vector<float>(40 * 64, 0.0F));
  const auto publish = [&] { hand_over->Publish({x.get(), 0}, {x.get(), 0}, {x.get(), 0}); };
  hand_over->BeginStep(1);
  publish();
  publish();
  EXPECT_THROW(publish(), Error);
  hand_over->Abandon();
  device().Finish();
  hand_over->EndStep();
  hand_over->BeginStep(40);  // whose layers do not overlap
  publish();
  EXPECT_THROW(publish(), Error);
  hand_over->Abandon();
  device().Finish();
  hand_over->EndStep();
}

TEST_P(HandOverTest, AbandonLetsTheQueueDrainWithTwoLayersOnTheirWay) {
  const auto hand_over = Make({128, 6, 64}, std::uint64_t{1} << 40);  // gives up in days
  Chain chain(device(), 128, 6, 64);
  for (const int awaited : {0, 1, 2}) {
    hand_over->BeginStep(4);
    std::thread enqueuing([&] { chain.EnqueueDeferred(*hand_over); });
    for (int i = 0; i < awaited; ++i) {
      if (i > 0) hand_over->Deliver();
      hand_over->Await();
    }
    hand_over->Abandon();
    enqueuing.join();
    device().Finish();
    hand_over->EndStep();
  }
  Chain next(device(), 128, 6, 64);
  for (const std::int64_t T : {1, 8, 32}) ASSERT_TRUE(next.DeferredStep(*hand_over, T));
}

TEST_P(HandOverTest, ManyStepsOfOneRowAtFullWidth) {
  const auto hand_over = Make({7168, 8, 1});
  Chain chain(device(), 7168, 8, 1);
  for (int step = 0; step < 25; ++step) ASSERT_TRUE(chain.Step(*hand_over, 1)) << step;
}

TEST_P(HandOverTest, RowsOfXMayLieApart) {
  constexpr std::int64_t T = 5, D = 36, K = 2, kStride = 41, kOffset = 3;
  const auto hand_over = Make({D, K, T});
  const std::vector<float> x = test::RandomFloats(kOffset + T * kStride, 7);
  const ClBuffer x_buffer = test::Upload(device(), x);
  const ClBuffer input = test::Upload(device(), x);
  hand_over->BeginStep(T);
  hand_over->Publish({input.get(), 2}, {input.get(), 0}, {input.get(), 1});
  hand_over->Take({x_buffer.get(), kOffset}, kStride);
  const HandOverInput got = hand_over->Await();
  EXPECT_EQ(std::vector<float>(got.h, got.h + T * D),
            std::vector<float>(x.begin() + 2, x.begin() + 2 + T * D));
  for (std::int64_t i = 0; i < T * D; ++i) hand_over->sum()[i] = static_cast<float>(i);
  hand_over->Deliver();
  std::vector<float> want = x;
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t d = 0; d < D; ++d) {
      want[kOffset + t * kStride + d] += static_cast<float>(t * D + d);
    }
  }
  EXPECT_EQ(test::Download<float>(device(), x_buffer, x.size()), want);
  hand_over->EndStep();
}

TEST_P(HandOverTest, AWaitingKernelGivesUpAndLaterStepsUseEvents) {
  if (!polled()) GTEST_SKIP() << "no kernel waits";
  for (const std::int64_t T : {1, 32}) {  // taken by one launch, and by two
    const auto hand_over = Make({128, 6, 64}, 50);
    Chain chain(device(), 128, 6, 64);
    hand_over->BeginStep(T);
    chain.Enqueue(*hand_over, 3);
    device().Finish();  // ends although nothing was delivered
    ExpectThrowsNaming([&] { hand_over->EndStep(); },
                       {"hand-over 1 ", "50 turns", "the step is lost", "events"}, name());
    EXPECT_TRUE(chain.XIsRight()) << "something was added";
    for (const std::int64_t rows : {1, 8, 64}) {
      ASSERT_TRUE(chain.Step(*hand_over, rows));
      EXPECT_EQ(hand_over->kind(), HandOverKind::kEvents);
    }
  }
}

TEST_P(HandOverTest, AbandonLetsTheQueueDrain) {
  const auto hand_over = Make({128, 6, 64}, std::uint64_t{1} << 40);  // gives up in days
  Chain chain(device(), 128, 6, 64);
  for (const std::int64_t T : {1, 8, 32}) {
    ASSERT_TRUE(chain.Step(*hand_over, T));
    hand_over->BeginStep(T);
    std::thread enqueuing([&] { chain.Enqueue(*hand_over); });
    if (T != 8) hand_over->Await();  // the host fails in a layer, or before the first
    hand_over->Abandon();
    enqueuing.join();
    device().Finish();
    hand_over->EndStep();
    if (!polled()) break;  // the lost step has added old sums to x
    EXPECT_TRUE(chain.XIsRight()) << "something was added";
  }
  Chain next(device(), 128, 6, 64);
  for (const std::int64_t T : {1, 8, 64}) ASSERT_TRUE(next.Step(*hand_over, T));
}

TEST_P(HandOverTest, ItsEndAbandonsAStep) {
  Chain chain(device(), 128, 6, 64);
  {
    const auto hand_over = Make({128, 6, 64}, std::uint64_t{1} << 40);
    hand_over->BeginStep(4);
    chain.Enqueue(*hand_over, 2);
    hand_over->Await();
  }
  device().Finish();
  const auto hand_over = Make({128, 6, 64});
  Chain next(device(), 128, 6, 64);
  EXPECT_TRUE(next.Step(*hand_over, 4));
}

TEST_P(HandOverTest, AwaitEndsWhenNothingIsPublished) {
  const auto hand_over = MakeWithWatchdog({128, 6, 8}, Seconds(0.02));
  Chain chain(device(), 128, 6, 8);
  hand_over->BeginStep(8);
  ExpectThrowsNaming([&] { hand_over->Await(); }, {"hand-over 1 ", "8 rows", "0.02 s"}, name());
  EXPECT_GE(hand_over->wait_s(), polled() ? 0.02 : 0);
  hand_over->Abandon();
  const auto patient = MakeWithWatchdog({128, 6, 8}, Seconds(20));
  EXPECT_TRUE(chain.Step(*patient, 8));
}

TEST_P(HandOverTest, ItsBytesAreThoseOfThePlan) {
  const HandOverShape shape{7168, 8, 600};
  const std::uint64_t host = HostBufferBytes();
  const std::uint64_t on_device = DeviceBufferBytes(device().info().index);
  const auto hand_over = Make(shape);
  const std::uint64_t more_host = HostBufferBytes() - host;
  const std::uint64_t more_device = DeviceBufferBytes(device().info().index) - on_device;
  EXPECT_LE(more_host, HandOverHostBytes(shape));
  EXPECT_LE(more_device, HandOverDeviceBytes(shape));
  if (!polled()) return;
  EXPECT_EQ(more_host, HandOverHostBytes(shape));
  EXPECT_EQ(more_device, HandOverDeviceBytes(shape));
}

INSTANTIATE_TEST_SUITE_P(Kinds, HandOverTest,
                         ::testing::Values(Param{HandOverKind::kPolled, Shapes::kCpu},
                                           Param{HandOverKind::kPolled, Shapes::kGpu},
                                           Param{HandOverKind::kEvents, Shapes::kCpu},
                                           Param{HandOverKind::kEvents, Shapes::kGpu}),
                         ::testing::PrintToStringParamName());

using HandOverChoice = test::ClTest;

TEST_F(HandOverChoice, IsEventsWhereTheDeviceSharesTheCores) {
  cl::Kernels kernels(device(), "");
  const auto hand_over = MakeHandOver(device(), kernels, {64, 2, 4});
  hand_over->BeginStep(1);
  const bool nv = device().info().extensions.find("cl_nv_create_buffer") != std::string::npos;
  if (device().info().is_cpu || nv) {
    EXPECT_EQ(hand_over->kind(), nv ? HandOverKind::kPolled : HandOverKind::kEvents);
  }
  EXPECT_EQ(Name(HandOverKind::kPolled), "polled");
  EXPECT_EQ(Name(HandOverKind::kEvents), "events");
}

}  // namespace
}  // namespace tandem
