// ctest: opencl
#include "runtime/hand_over.h"

#include "memory/usage.h"
#include "tests/support/hand_over_fixture.h"

namespace tandem {
namespace {

using test::HandOverChain;
using test::HandOverTest;

TEST_P(HandOverTest, EveryWordArrivesThroughManyStepsOfChangingRows) {
  for (const std::int64_t D : {128, 97}) {  // rows that can be loaded by 16 bytes, and not
    constexpr std::int64_t kRows = 300;     // more than the device adds at once
    const auto hand_over = Make({D, 6, kRows});
    HandOverChain chain(device(), D, 6, kRows);
    for (const std::int64_t T : {1, 8, 1, 9, 2, 17, 1, 32, 33, 3, 300, 1, 31, 1, 1, 5, 257, 1, 4}) {
      ASSERT_TRUE(chain.Step(*hand_over, T)) << "D " << D << ", T " << T;
      EXPECT_EQ(hand_over->kind(),
                polled() && T <= kPolledRows ? HandOverKind::kPolled : HandOverKind::kEvents);
    }
    EXPECT_GT(hand_over->wait_s(), 0);
  }
}

TEST_P(HandOverTest, ManyStepsOfOneRowAtFullWidth) {
  const auto hand_over = Make({7168, 8, 1});
  HandOverChain chain(device(), 7168, 8, 1);
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

INSTANTIATE_TEST_SUITE_P(Kinds, HandOverTest, ::testing::ValuesIn(test::kHandOverParams),
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
