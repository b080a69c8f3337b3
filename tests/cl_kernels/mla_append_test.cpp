// ctest: opencl
// Latents and roped keys on their way into the cache.
#include <numeric>

#include "tests/support/mla_fixture.h"

namespace tandem {
namespace {

using test::CacheValue;
using test::Reference;
using test::Roped;
using test::Rotations;
using test::Shapes;
using test::TokenBytes;
using test::Whole;

struct AppendCase {
  std::int64_t T, R, d;
  DType type;
};

class MlaAppendTest : public test::MlaTest {
 protected:
  void Run(const AppendCase& c) {
    const std::int64_t stride = c.R + c.d + 3;
    z_ = test::RandomFloats(static_cast<std::size_t>(c.T * stride), 1, 3.0F);
    w_ = test::RandomFloats(static_cast<std::size_t>(c.R), 2);
    cos_sin_ = Rotations(c.T, c.d);
    slots_.clear();
    for (std::int64_t t = 0; t < c.T; ++t) {
      slots_.push_back(t < skip_from_ ? static_cast<int>((t * 5 + 3) % 97) : -1);
    }
    bytes_ = TokenBytes(c.type, c.R, c.d);
    const ClBuffer z = test::Upload(device(), z_);
    const ClBuffer w = test::Upload(device(), w_);
    const ClBuffer cos_sin = test::Upload(device(), cos_sin_);
    const ClBuffer slots = test::Upload(device(), slots_);
    const ClBuffer kv =
        test::Upload(device(), std::vector<std::uint8_t>(static_cast<std::size_t>(97 * bytes_)));
    cl::MlaAppendArgs a;
    a.z = Whole(z);
    a.z_stride = stride;
    a.norm_w = Whole(w);
    a.eps = 1e-6F;
    a.R = c.R;
    a.d = c.d;
    a.cos_sin = Whole(cos_sin);
    a.kv = kv.get();
    a.kv_type = c.type;
    a.slots = Whole(slots);
    a.T = c.T;
    kernels().MlaAppend(a);
    kv_ = test::Download<std::uint8_t>(device(), kv, static_cast<std::size_t>(97 * bytes_));
    EXPECT_EQ(test::Download<float>(device(), z, z_.size()), z_);
  }

  Reference Want(const AppendCase& c, std::int64_t t, std::int64_t i) const {
    const float* z = z_.data() + t * (c.R + c.d + 3);
    if (i >= c.R) return Roped(z + c.R, cos_sin_.data() + t * c.d, i - c.R);
    double squares = 0;
    for (std::int64_t r = 0; r < c.R; ++r) squares += double{z[r]} * z[r];
    Reference want;
    want.Add(w_[static_cast<std::size_t>(i)],
             z[i] / std::sqrt(squares / static_cast<double>(c.R) + 1e-6));
    return want;
  }

  // Half a unit in the last place of the type, and for f8 of its code at the scale of the 128.
  double Rounding(const AppendCase& c, const std::uint8_t* token, std::int64_t i,
                  double value) const {
    const double size = std::fabs(value);
    if (c.type == DType::kF32) return 0;
    if (c.type == DType::kF16) return std::max(size * 0x1p-11, 0x1p-25);
    if (c.type == DType::kBF16 || i >= c.R) return size * 0x1p-8;
    float scale = 0;
    std::memcpy(&scale, token + c.R + i / 128 * 4, 4);
    return std::max(size * 0x1p-4, scale * 0x1p-10);
  }

  void Check(const AppendCase& c) {
    Run(c);
    for (std::int64_t t = 0; t < c.T; ++t) {
      const std::uint8_t* token = kv_.data() + slots_[static_cast<std::size_t>(t)] * bytes_;
      for (std::int64_t i = 0; i < c.R + c.d; ++i) {
        const Reference want = Want(c, t, i);
        const double tolerance =
            Rounding(c, token, i, want.value) + test::DotFactor(c.R) * 1.2e-7 * want.size;
        ASSERT_NEAR(CacheValue(c.type, token, i, c.R), want.value, tolerance)
            << "row " << t << " value " << i << " of " << c.R << " + " << c.d << " in "
            << Name(c.type);
      }
    }
  }

  std::int64_t skip_from_ = 1000;  // rows from here on have no slot
  std::int64_t bytes_ = 0;
  std::vector<float> z_, w_, cos_sin_;
  std::vector<int> slots_;
  std::vector<std::uint8_t> kv_;
};

TEST_P(MlaAppendTest, NormsRotatesAndRounds) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    Check({3, 512, 64, type});
    Check({17, 128, 16, type});
  }
  Check({2, 64, 16, DType::kF16});
  Check({2, 37, 6, DType::kF32});
}

// What is left out of a step whose rows go to several buffers.
TEST_P(MlaAppendTest, RowsWithoutASlotGoNowhere) {
  skip_from_ = 2;
  const AppendCase c{4, 64, 16, DType::kF16};
  Run(c);
  for (std::int64_t t = 0; t < c.T; ++t) {
    const auto first = kv_.begin() + (t * 5 + 3) % 97 * bytes_;
    const bool written = std::any_of(first, first + bytes_, [](std::uint8_t b) { return b != 0; });
    EXPECT_EQ(written, t < 2) << "row " << t;
  }
  EXPECT_TRUE(
      std::all_of(kv_.begin(), kv_.begin() + bytes_, [](std::uint8_t b) { return b == 0; }));
}

TEST_P(MlaAppendTest, ScalesAreTheLargestMagnitudeOver448) {
  const AppendCase c{2, 256, 16, DType::kF8E4M3};
  Run(c);
  for (std::int64_t t = 0; t < c.T; ++t) {
    const std::uint8_t* token = kv_.data() + slots_[static_cast<std::size_t>(t)] * bytes_;
    for (std::int64_t block = 0; block < 2; ++block) {
      double largest = 0;
      int code = 0;
      for (std::int64_t i = block * 128; i < block * 128 + 128; ++i) {
        largest = std::max(largest, std::fabs(Want(c, t, i).value));
        code = std::max(code, token[i] & 0x7F);
      }
      float scale = 0;
      std::memcpy(&scale, token + c.R + block * 4, 4);
      EXPECT_NEAR(scale, largest / 448, 1e-5 * largest / 448);
      EXPECT_EQ(code, 0x7E);  // 448
    }
  }
}

TEST_P(MlaAppendTest, RefusesWhatTheCacheCannotHold) {
  cl::MlaAppendArgs a;
  a.R = 64;
  a.d = 16;
  a.kv_type = DType::kF8E4M3;
  EXPECT_THROW(kernels().MlaAppend(a), OpenClError);
  a.R = 513;
  a.kv_type = DType::kF32;
  EXPECT_THROW(kernels().MlaAppend(a), OpenClError);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaAppendTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
