// ctest: opencl
// Hand-overs of which the host has two layers on their way.
#include <thread>

#include "tests/support/hand_over_fixture.h"

namespace tandem {
namespace {

using test::HandOverChain;
using test::HandOverTest;

TEST_P(HandOverTest, TwoLayersMayBeOnTheirWay) {
  for (const std::int64_t D : {128, 97}) {
    const auto hand_over = Make({D, 6, 300});
    HandOverChain chain(device(), D, 6, 300);
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
  HandOverChain chain(device(), 128, 6, 64);
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
  HandOverChain next(device(), 128, 6, 64);
  for (const std::int64_t T : {1, 8, 32}) ASSERT_TRUE(next.DeferredStep(*hand_over, T));
}

INSTANTIATE_TEST_SUITE_P(Kinds, HandOverTest, ::testing::ValuesIn(test::kHandOverParams),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
