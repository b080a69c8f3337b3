// ctest: opencl
// Hand-overs of steps that do not come to their end.
#include <functional>
#include <thread>

#include "tests/support/hand_over_fixture.h"

namespace tandem {
namespace {

using test::HandOverChain;
using test::HandOverTest;

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

TEST_P(HandOverTest, AWaitingKernelGivesUpAndLaterStepsUseEvents) {
  if (!polled()) GTEST_SKIP() << "no kernel waits";
  for (const std::int64_t T : {1, 32}) {  // taken by one launch, and by two
    const auto hand_over = Make({128, 6, 64}, 50);
    HandOverChain chain(device(), 128, 6, 64);
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
  HandOverChain chain(device(), 128, 6, 64);
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
  HandOverChain next(device(), 128, 6, 64);
  for (const std::int64_t T : {1, 8, 64}) ASSERT_TRUE(next.Step(*hand_over, T));
}

TEST_P(HandOverTest, ItsEndAbandonsAStep) {
  HandOverChain chain(device(), 128, 6, 64);
  {
    const auto hand_over = Make({128, 6, 64}, std::uint64_t{1} << 40);
    hand_over->BeginStep(4);
    chain.Enqueue(*hand_over, 2);
    hand_over->Await();
  }
  device().Finish();
  const auto hand_over = Make({128, 6, 64});
  HandOverChain next(device(), 128, 6, 64);
  EXPECT_TRUE(next.Step(*hand_over, 4));
}

TEST_P(HandOverTest, AwaitEndsWhenNothingIsPublished) {
  const auto hand_over = MakeWithWatchdog({128, 6, 8}, Seconds(0.02));
  HandOverChain chain(device(), 128, 6, 8);
  hand_over->BeginStep(8);
  ExpectThrowsNaming([&] { hand_over->Await(); }, {"hand-over 1 ", "8 rows", "0.02 s"}, name());
  EXPECT_GE(hand_over->wait_s(), polled() ? 0.02 : 0);
  hand_over->Abandon();
  const auto patient = MakeWithWatchdog({128, 6, 8}, Seconds(20));
  EXPECT_TRUE(chain.Step(*patient, 8));
}

INSTANTIATE_TEST_SUITE_P(Kinds, HandOverTest, ::testing::ValuesIn(test::kHandOverParams),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
