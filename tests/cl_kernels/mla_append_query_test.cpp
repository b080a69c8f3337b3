// ctest: opencl
// The launch that makes a step's queries and appends its keys: as the two launches one by one.
#include <gtest/gtest.h>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

constexpr std::int64_t kR = 512;
constexpr std::int64_t kD = 64;
constexpr std::int64_t kNope = 128;
constexpr std::int64_t kSlots = 97;

cl::Span Whole(const ClBuffer& buffer) { return {buffer.get(), 0}; }

class MlaAppendQueryTest : public test::ClShapesTest {
 protected:
  // Of T rows and H heads: the cache and the queries, appended by the query's launch or before.
  struct Result {
    std::vector<std::uint8_t> kv;
    std::vector<float> y;
  };

  void Prepare(std::int64_t H, DType weights, bool joined) {
    H_ = H;
    test::WeightBlob blob;
    weights_ = {};
    if (joined) {
      weights_.kv_b = blob.Add(test::MakeWeight(weights, H * 2 * kNope, kR, 3));
    } else {
      weights_.k_b = blob.Add(test::MakeWeight(weights, H * kR, kNope, 3));
    }
    buffer_ = blob.Upload(device());
    (joined ? weights_.kv_b : weights_.k_b).buffer = buffer_.get();
  }

  Result Run(std::int64_t T, DType kv_type, bool together) {
    const std::int64_t q_stride = H_ * (kNope + kD);
    const auto floats = [&](std::int64_t n, int seed) {
      return test::Upload(device(), test::RandomFloats(static_cast<std::size_t>(n), seed));
    };
    const ClBuffer q = floats(T * q_stride, 5);
    const ClBuffer z = floats(T * (kR + kD + 3), 1);
    const ClBuffer norm = floats(kR, 2);
    const ClBuffer cos_sin = floats(T * kD, 31);
    std::vector<int> slots;
    for (std::int64_t t = 0; t < T; ++t) {
      slots.push_back(t == 2 ? -1 : static_cast<int>((t * 5 + 3) % kSlots));
    }
    const ClBuffer device_slots = test::Upload(device(), slots);
    const std::size_t kv_bytes = static_cast<std::size_t>(kSlots * 4 * (kR + kD));
    const ClBuffer kv = test::Upload(device(), std::vector<std::uint8_t>(kv_bytes));
    const std::size_t count = static_cast<std::size_t>(T * H_ * (kR + kD));
    const ClBuffer y = test::Upload(device(), std::vector<float>(count, 1e30F));
    const cl::MlaAppendArgs append{
        Whole(z), kR + kD + 3, Whole(norm),         1e-6F, kR, kD, Whole(cos_sin),
        kv.get(), kv_type,     Whole(device_slots), T};
    if (!together) kernels().MlaAppend(append);
    cl::MlaQueryArgs a{Whole(q), q_stride, weights_, Whole(cos_sin), Whole(y), T,
                       H_,       kR,       kD,       kNope,          kNope};
    if (together) a.append = &append;
    kernels().MlaQuery(a);
    return {test::Download<std::uint8_t>(device(), kv, kv_bytes),
            test::Download<float>(device(), y, count)};
  }

  void Check(std::int64_t T, DType kv_type) {
    SCOPED_TRACE(testing::Message() << T << " rows, " << H_ << " heads, " << Name(kv_type));
    const Result apart = Run(T, kv_type, false);
    const Result together = Run(T, kv_type, true);
    EXPECT_EQ(together.kv, apart.kv);
    EXPECT_EQ(together.y, apart.y);
    EXPECT_TRUE(std::ranges::any_of(apart.kv, [](std::uint8_t byte) { return byte != 0; }));
  }

  std::int64_t H_ = 0;
  cl::HeadWeights weights_;
  ClBuffer buffer_;
};

TEST_P(MlaAppendQueryTest, EveryTypeOfCache) {
  Prepare(4, DType::kF8E4M3, true);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) Check(1, type);
}

TEST_P(MlaAppendQueryTest, SeveralRowsOneWithoutASlot) {
  Prepare(2, DType::kBF16, true);
  Check(7, DType::kF16);
  Prepare(5, DType::kBF16, false);
  Check(3, DType::kF8E4M3);
}

TEST_P(MlaAppendQueryTest, ManyRowsTakeTwoLaunches) {
  Prepare(1, DType::kBF16, true);
  Check(40, DType::kF16);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaAppendQueryTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
