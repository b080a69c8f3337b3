// ctest: opencl
// MLA of one row in one launch: as append, query, attention and output in their own launches.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

constexpr std::int64_t kR = 512;
constexpr std::int64_t kD = 64;
constexpr std::int64_t kHead = 128;
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kBlocks = 20;
constexpr std::int64_t kQWidth = kHead + kD;

cl::Span Whole(const ClBuffer& buffer) { return {buffer.get(), 0}; }

class MlaOneRowTest : public test::ClTest {
 protected:
  struct Result {
    bool taken = false;
    std::vector<std::uint8_t> kv;
    std::vector<float> out;
  };

  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    if (device().info().max_work_group_size < 256) GTEST_SKIP() << "no work-groups of 256";
    cl::DeviceTraits traits = cl::TraitsOf(device());
    if (traits.nv_compute == 0) {
      traits = cl::GpuTraits(4);
      traits.mla_one_row_keys = 128;
    }
    kernels_ = std::make_unique<cl::Kernels>(device(), "", traits);
  }

  void Prepare(std::int64_t H, DType weights, DType kv_type) {
    H_ = H;
    kv_type_ = kv_type;
    test::WeightBlob blob;
    weights_ = {};
    weights_.kv_b = blob.Add(test::MakeWeight(weights, H * 2 * kHead, kR, 3));
    buffer_ = blob.Upload(device());
    weights_.kv_b.buffer = buffer_.get();
    q_ = Floats(H * kQWidth + 4, 5);
    z_ = Floats(kR + kD, 1);
    norm_ = Floats(kR, 2);
    cos_sin_ = Floats(kD, 31);
    // Keys of a cache, some of which have no place in the row's tables.
    const std::vector<float> values =
        test::RandomFloats(static_cast<std::size_t>(kBlocks * kBlock * (kR + kD)), 7);
    cache_.clear();
    for (const float value : values) {
      const auto bits = static_cast<std::uint32_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      const std::uint16_t stored =
          kv_type == DType::kBF16
              ? static_cast<std::uint16_t>(bits)
              : static_cast<std::uint16_t>((bits & 0x8000U) | 0x2000U | (bits * 37U & 0x1fffU));
      cache_.push_back(stored);
    }
  }

  ClBuffer Floats(std::int64_t n, int seed) {
    return test::Upload(device(), test::RandomFloats(static_cast<std::size_t>(n), seed));
  }

  Result Run(std::int64_t keys, bool one) {
    const ClBuffer kv = test::Upload(device(), cache_);
    // slots, n_keys, table_start and tables, as a step's batch has them
    std::vector<int> batch{0, static_cast<int>(keys), 3, -1, -1, -1, -1};
    for (int i = 0; i < kBlocks; ++i) batch.push_back((i * 7 + 3) % static_cast<int>(kBlocks));
    const auto newest = static_cast<int>(keys - 1);
    batch[0] = batch[static_cast<std::size_t>(7 + newest / 64)] * 64 + newest % 64;
    const ClBuffer words = test::Upload(device(), batch);
    const ClBuffer absorbed = Floats(H_ * (kR + kD), 8);
    const ClBuffer parts = Floats((cl::kMlaParts + H_) * kR, 9);
    const ClBuffer lse = Floats(cl::kMlaParts + H_, 10);
    const ClBuffer out = Floats(H_ * kHead + 3, 11);
    const auto word = [&](std::int64_t i) { return cl::Span{words.get(), i}; };
    const cl::MlaAppendArgs append{Whole(z_),       kR + kD,  Whole(norm_), 1e-6F,   kR, kD,
                                   Whole(cos_sin_), kv.get(), kv_type_,     word(0), 1};
    cl::MlaQueryArgs query{
        {q_.get(), 4}, H_ * kQWidth, weights_, Whole(cos_sin_), Whole(absorbed), 1, H_, kR, kD,
        kHead,         kHead};
    query.append = &append;
    cl::MlaAttentionArgs a;
    a.q = Whole(absorbed);
    a.kv = kv.get();
    a.kv_type = kv_type_;
    a.n_keys = word(1);
    a.table_start = word(2);
    a.tables = word(4);
    a.max_keys = keys;
    a.T = 1;
    a.H = H_;
    a.R = kR;
    a.d = kD;
    a.scale = 0.05F;
    a.splits = 1;
    a.parts = Whole(parts);
    a.lse = Whole(lse);
    cl::MlaOutputArgs output{
        Whole(parts), Whole(lse), 1, weights_, {out.get(), 3}, H_ * kHead, 1, H_, kR, kHead, kHead};
    Result result;
    if (one) {
      query.bf16 = a.bf16 = output.bf16 = true;
      result.taken = kernels_->MlaOneRow(query, a, output);
    } else {
      kernels_->MlaQuery(query);
      kernels_->MlaAttention(a);
      kernels_->MlaOutput(output);
    }
    result.kv = test::Download<std::uint8_t>(device(), kv, cache_.size() * 2);
    result.out = test::Download<float>(device(), out, static_cast<std::size_t>(H_ * kHead + 3));
    return result;
  }

  void Check(std::int64_t keys) {
    SCOPED_TRACE(testing::Message() << keys << " keys, " << H_ << " heads");
    const Result apart = Run(keys, false);
    for (int again = 0; again < 2; ++again) {  // the second finds what the first left of its counts
      const Result one = Run(keys, true);
      ASSERT_TRUE(one.taken);
      EXPECT_EQ(one.kv, apart.kv);
      double error = 0;
      double size = 0;
      for (std::size_t i = 0; i < one.out.size(); ++i) {
        error += std::pow(one.out[i] - apart.out[i], 2.0);
        size += std::pow(apart.out[i], 2.0);
      }
      EXPECT_LT(error, 1e-11 * size);
    }
  }

  std::unique_ptr<cl::Kernels> kernels_;
  std::int64_t H_ = 0;
  DType kv_type_ = DType::kF16;
  cl::HeadWeights weights_;
  ClBuffer buffer_, q_, z_, norm_, cos_sin_;
  std::vector<std::uint16_t> cache_;
};

TEST_F(MlaOneRowTest, NumbersOfKeys) {
  Prepare(1, DType::kF8E4M3, DType::kF16);
  for (const std::int64_t keys : {1, 7, 16, 33, 64, 65, 144, 500}) Check(keys);
}

TEST_F(MlaOneRowTest, HeadsAndTypes) {
  Prepare(16, DType::kF8E4M3, DType::kBF16);
  Check(100);
  Prepare(3, DType::kBF16, DType::kF16);
  Check(70);
}

TEST_F(MlaOneRowTest, OtherStepsAreLeftAlone) {
  Prepare(1, DType::kF8E4M3, DType::kF16);
  EXPECT_FALSE(Run(kBlock * kBlocks, true).taken) << "more keys than it takes";
  Prepare(1, DType::kQ8_0, DType::kF16);
  EXPECT_FALSE(Run(5, true).taken) << "no form for the weights";
  Prepare(1, DType::kF8E4M3, DType::kF8E4M3);
  EXPECT_FALSE(Run(5, true).taken) << "no form for the cache";
}

}  // namespace
}  // namespace tandem
