// ctest: opencl
#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Reference;
using test::Shapes;
using test::Worst;

constexpr std::int64_t kBlock = 64;

std::int64_t TokenBytes(DType type, std::int64_t R, std::int64_t d) {
  if (type == DType::kF8E4M3) return R + R / 32 + 2 * d;
  return static_cast<std::int64_t>(BytesOf(type)) * (R + d);
}

// Value i of a token as the cache has it.
double CacheValue(DType type, const std::uint8_t* token, std::int64_t i, std::int64_t R) {
  if (type != DType::kF8E4M3) {
    return test::DecodeWeight(type, token + i * static_cast<std::int64_t>(BytesOf(type)));
  }
  if (i >= R) return test::DecodeWeight(DType::kBF16, token + R + R / 32 + 2 * (i - R));
  float scale = 0;
  std::memcpy(&scale, token + R + i / 128 * 4, 4);
  return static_cast<double>(E4M3ToF32(token[i])) * scale;
}

// Pairs (cos, sin) of any angles.
std::vector<float> Rotations(std::int64_t T, std::int64_t d) {
  std::vector<float> cos_sin;
  for (const float angle : test::RandomFloats(static_cast<std::size_t>(T * d / 2), 31, 3.0F)) {
    cos_sin.push_back(std::cos(angle));
    cos_sin.push_back(std::sin(angle));
  }
  return cos_sin;
}

// Value i of rope(x), and the size of its terms.
Reference Roped(const float* x, const float* cos_sin, std::int64_t i) {
  const float* pair = x + i / 2 * 2;
  const float* turn = cos_sin + i / 2 * 2;
  Reference want;
  want.Add(pair[0], i % 2 == 0 ? turn[0] : turn[1]);
  want.Add(pair[1], i % 2 == 0 ? -turn[1] : turn[0]);
  return want;
}

cl::Span Whole(const ClBuffer& buffer) { return {buffer.get(), 0}; }

class MlaTest : public test::ClShapesTest {
 protected:
  // The compiler of PoCL 5 fails an assertion on work-group kernels with barriers in loops, which a
  // CPU device does not take.
  bool CannotCompileGroups() const {
    const ClDeviceInfo& info = device().info();
    return GetParam() == Shapes::kGpu && info.is_cpu && info.driver_version.starts_with("5.");
  }
};

struct AppendCase {
  std::int64_t T, R, d;
  DType type;
};

class MlaAppendTest : public MlaTest {
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

struct HeadsCase {
  std::int64_t H, R, d, nope, dv;
  DType type;
  bool joined = true;  // kv_b, else k_b and v_b
};

class MlaHeadsTest : public MlaTest {
 protected:
  void Prepare(const HeadsCase& c) {
    test::WeightBlob blob;
    weights_ = {};
    if (c.joined) {
      k_ = v_ = test::MakeWeight(c.type, c.H * (c.nope + c.dv), c.R, 3);
      weights_.kv_b = blob.Add(k_);
    } else {
      k_ = test::MakeWeight(c.type, c.H * c.R, c.nope, 3);
      v_ = test::MakeWeight(c.R % BlockElements(c.type) == 0 ? c.type : DType::kBF16, c.H * c.dv,
                            c.R, 4);
      weights_.k_b = blob.Add(k_);
      weights_.v_b = blob.Add(v_);
    }
    buffer_ = blob.Upload(device());
    for (cl::Weight* w : {&weights_.kv_b, &weights_.k_b, &weights_.v_b}) {
      if (w->rows > 0) w->buffer = buffer_.get();
    }
  }

  // W_UK[h][n, r] and W_UV[h][n, r].
  double Uk(const HeadsCase& c, std::int64_t h, std::int64_t n, std::int64_t r) const {
    const std::int64_t at =
        c.joined ? (h * (c.nope + c.dv) + n) * c.R + r : (h * c.R + r) * c.nope + n;
    return k_.values[static_cast<std::size_t>(at)];
  }
  double Uv(const HeadsCase& c, std::int64_t h, std::int64_t n, std::int64_t r) const {
    const std::int64_t row = c.joined ? h * (c.nope + c.dv) + c.nope + n : h * c.dv + n;
    return v_.values[static_cast<std::size_t>(row * c.R + r)];
  }

  std::vector<float> Query(const HeadsCase& c, std::int64_t T) {
    const ClBuffer q = test::Upload(device(), q_);
    const ClBuffer cos_sin = test::Upload(device(), cos_sin_);
    const std::size_t count = static_cast<std::size_t>(T * c.H * (c.R + c.d));
    const ClBuffer y = test::Upload(device(), std::vector<float>(count, 1e30F));
    cl::MlaQueryArgs a{Whole(q), QStride(c), weights_, Whole(cos_sin), Whole(y), T,
                       c.H,      c.R,        c.d,      c.nope,         c.dv};
    kernels().MlaQuery(a);
    return test::Download<float>(device(), y, count);
  }
  static std::int64_t QStride(const HeadsCase& c) { return c.H * (c.nope + c.d) + 5; }

  void CheckQuery(const HeadsCase& c, std::int64_t T) {
    Prepare(c);
    q_ = test::RandomFloats(static_cast<std::size_t>(T * QStride(c)), 5);
    cos_sin_ = Rotations(T, c.d);
    const std::vector<float> y = Query(c, T);
    Worst worst;
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        const float* q = q_.data() + t * QStride(c) + h * (c.nope + c.d);
        const float* got = y.data() + (t * c.H + h) * (c.R + c.d);
        for (std::int64_t r = 0; r < c.R + c.d; ++r) {
          Reference want;
          for (std::int64_t n = 0; r < c.R && n < c.nope; ++n) want.Add(q[n], Uk(c, h, n, r));
          if (r >= c.R) want = Roped(q + c.nope, cos_sin_.data() + t * c.d, r - c.R);
          worst.See(got[r], want, test::DotFactor(c.nope), t, h * (c.R + c.d) + r);
        }
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "query " << c.H << " heads of " << c.R << " " << Name(c.type)
                                 << (c.joined ? " kv_b" : " k_b") << " T " << T;
    const std::vector<float> one = Query(c, 1);
    for (std::size_t i = 0; i < one.size(); ++i) ASSERT_EQ(one[i], y[i]) << i;
  }

  std::vector<float> Output(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
    const ClBuffer parts = test::Upload(device(), parts_);
    const ClBuffer lse = test::Upload(device(), lse_);
    const std::size_t count = static_cast<std::size_t>(T * (c.H * c.dv + 7));
    const ClBuffer out = test::Upload(device(), std::vector<float>(count, 1e30F));
    cl::MlaOutputArgs a{Whole(parts), Whole(lse), splits, weights_, Whole(out), c.H * c.dv + 7, T,
                        c.H,          c.R,        c.nope, c.dv};
    kernels().MlaOutput(a);
    return test::Download<float>(device(), out, count);
  }

  void PrepareParts(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
    parts_ = test::RandomFloats(static_cast<std::size_t>(T * c.H * splits * c.R), 6);
    lse_ = test::RandomFloats(static_cast<std::size_t>(T * c.H * splits), 7, 4.0F);
    for (std::size_t i = 0; i < lse_.size() && splits > 1; ++i) {
      if (i % static_cast<std::size_t>(splits) == 1) {  // an empty run
        lse_[i] = -std::numeric_limits<float>::infinity();
        std::fill_n(parts_.begin() + static_cast<std::ptrdiff_t>(i) * c.R, c.R, 0.0F);
      }
    }
  }

  std::vector<Reference> Merged(const HeadsCase& c, std::int64_t row, std::int64_t splits) const {
    const float* lse = lse_.data() + row * splits;
    const double largest = *std::max_element(lse, lse + splits);
    double total = 0;
    for (std::int64_t s = 0; s < splits; ++s) total += std::exp(lse[s] - largest);
    std::vector<Reference> u(static_cast<std::size_t>(c.R));
    for (std::int64_t s = 0; s < splits; ++s) {
      const double weight = std::exp(lse[s] - largest) / total;
      for (std::int64_t r = 0; r < c.R; ++r) {
        u[static_cast<std::size_t>(r)].Add(weight, parts_[(row * splits + s) * c.R + r]);
      }
    }
    return u;
  }

  void CheckOutput(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
    Prepare(c);
    PrepareParts(c, T, splits);
    const std::vector<float> out = Output(c, T, splits);
    Worst worst;
    for (std::int64_t row = 0; row < T * c.H; ++row) {
      const std::vector<Reference> u = Merged(c, row, splits);
      for (std::int64_t n = 0; n < c.dv; ++n) {
        Reference want;
        for (std::int64_t r = 0; r < c.R; ++r) {
          const double w = Uv(c, row % c.H, n, r);
          want.value += u[static_cast<std::size_t>(r)].value * w;
          want.size += u[static_cast<std::size_t>(r)].size * std::fabs(w);
        }
        const std::int64_t at = row / c.H * (c.H * c.dv + 7) + row % c.H * c.dv + n;
        // exp of numbers up to 8 is within a few units.
        worst.See(out[static_cast<std::size_t>(at)], want, test::DotFactor(c.R) + 8, row, n);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "output " << c.H << " heads of " << c.R << " " << Name(c.type)
                                 << " T " << T << " splits " << splits;
    const std::vector<float> one = Output(c, 1, splits);
    for (std::int64_t i = 0; i < c.H * c.dv; ++i) ASSERT_EQ(one[i], out[i]) << i;
  }

  test::TestWeight k_, v_;
  cl::HeadWeights weights_;
  ClBuffer buffer_;
  std::vector<float> q_, cos_sin_, parts_, lse_;
};

TEST_P(MlaHeadsTest, QueryOfEveryFormat) {
  for (const DType type : Formats()) {
    CheckQuery({3, 512, 64, 128, 128, type}, 1);
    CheckQuery({3, 512, 64, 128, 128, type}, 6);
    CheckQuery({8, 64, 16, 32, 32, type}, 5);
    CheckQuery({2, 256, 16, 128, 64, type, false}, 5);
    CheckQuery({2, 64, 16, 32, 32, type, false}, 2);
  }
}

TEST_P(MlaHeadsTest, OutputOfEveryFormat) {
  for (const DType type : Formats()) {
    CheckOutput({3, 512, 64, 128, 128, type}, 2, 1);
    CheckOutput({3, 512, 64, 128, 128, type}, 2, 5);
    CheckOutput({8, 64, 16, 32, 32, type}, 5, 3);
    CheckOutput({2, 256, 16, 128, 64, type, false}, 5, 2);
  }
}

// weights.cl decodes and has its own tests; here the formats with most parts and with one.
TEST_P(MlaHeadsTest, BlockFormats) {
  std::vector<DType> types{DType::kQ6_K};
  if (!slow_to_compile()) types = {DType::kQ8_0, DType::kQ5_0, DType::kQ4_K, DType::kQ6_K};
  for (const DType type : types) {
    CheckQuery({2, 512, 16, 64, 32, type}, 3);
    CheckQuery({2, 64, 16, 256, 32, type, false}, 3);
    CheckOutput({2, 512, 16, 64, 32, type}, 3, 2);
  }
}

TEST_P(MlaHeadsTest, OddSizes) {
  const DType type = Formats().back();
  CheckQuery({2, 37, 6, 13, 11, type}, 3);
  CheckQuery({2, 37, 6, 13, 11, type, false}, 3);
  CheckOutput({2, 37, 6, 13, 11, type}, 3, 4);
}

TEST_P(MlaHeadsTest, ManySplits) { CheckOutput({1, 64, 16, 32, 32, Formats().back()}, 1, 300); }

constexpr DType kMatrixFormats[] = {DType::kF32,  DType::kBF16, DType::kF16,  DType::kF8E4M3,
                                    DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kMXFP4,
                                    DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// The form of W_UK and W_UV for matrix units against the same sums in double over what it rounds: x
// and the weights to bf16. FP8's weights are rounded with their scales.
class MlaHeadsMmaTest : public MlaHeadsTest {
 protected:
  void SetUp() override {
    MlaHeadsTest::SetUp();
    if (IsSkipped()) return;
    const cl::DeviceTraits traits = cl::TraitsOf(device());
    if (traits.nv_compute < 80) GTEST_SKIP() << device().info().name << " has no mma.sync";
    native_ = std::make_unique<cl::Kernels>(device(), "", traits);
  }
  template <typename T>
  static void RoundAll(std::vector<T>& values) {
    for (T& v : values) v = Bf16ToF32(F32ToBf16(static_cast<float>(v)));
  }
  // A weight of a block format may come out one unit of f32 off and then round the other way: some
  // of a sum's n terms differ by a unit of bf16.
  static double Rounding(DType type, std::int64_t n) {
    if (!IsBlockFormat(type)) return 0;
    return 4 * 0x1p-8 / static_cast<double>(n) /
           static_cast<double>(std::numeric_limits<float>::epsilon());
  }
  void CheckQueryMma(const HeadsCase& c, std::int64_t T, std::int64_t padding);
  void CheckOutputMma(const HeadsCase& c, std::int64_t T, std::int64_t splits);
  std::unique_ptr<cl::Kernels> native_;
};

void MlaHeadsMmaTest::CheckQueryMma(const HeadsCase& c, std::int64_t T, std::int64_t padding) {
  Prepare(c);
  RoundAll(k_.values);
  const std::int64_t stride = c.H * (c.nope + c.d) + padding;
  q_ = test::RandomFloats(static_cast<std::size_t>(T * stride), 5);
  RoundAll(q_);
  cos_sin_ = Rotations(T, c.d);
  const ClBuffer q = test::Upload(device(), q_);
  const ClBuffer cos_sin = test::Upload(device(), cos_sin_);
  const auto count = static_cast<std::size_t>(T * c.H * (c.R + c.d));
  const ClBuffer y = test::Upload(device(), std::vector<float>(count, 1e30F));
  native_->MlaQuery({Whole(q), stride, weights_, Whole(cos_sin), Whole(y), T, c.H, c.R, c.d, c.nope,
                     c.dv, /*bf16=*/true});
  const std::vector<float> got = test::Download<float>(device(), y, count);
  Worst worst;
  for (std::int64_t t = 0; t < T; t += t < 3 ? 1 : 13) {
    for (std::int64_t h = 0; h < c.H; ++h) {
      const float* row = q_.data() + t * stride + h * (c.nope + c.d);
      for (std::int64_t r = 0; r < c.R + c.d; ++r) {
        Reference want;
        for (std::int64_t n = 0; r < c.R && n < c.nope; ++n) want.Add(row[n], Uk(c, h, n, r));
        if (r >= c.R) want = Roped(row + c.nope, cos_sin_.data() + t * c.d, r - c.R);
        worst.See(got[static_cast<std::size_t>((t * c.H + h) * (c.R + c.d) + r)], want,
                  test::DotFactor(c.nope) + Rounding(c.type, c.nope), t, h * (c.R + c.d) + r);
      }
    }
  }
  EXPECT_TRUE(worst.Verdict()) << "query " << c.H << " heads of " << c.R << " " << Name(c.type)
                               << (c.joined ? " kv_b" : " k_b") << " T " << T;
}

void MlaHeadsMmaTest::CheckOutputMma(const HeadsCase& c, std::int64_t T, std::int64_t splits) {
  Prepare(c);
  RoundAll(v_.values);
  PrepareParts(c, T, splits);
  RoundAll(parts_);
  const ClBuffer parts = test::Upload(device(), parts_);
  const ClBuffer lse = test::Upload(device(), lse_);
  const std::int64_t stride = c.H * c.dv + 7;
  const auto count = static_cast<std::size_t>(T * stride);
  const ClBuffer out = test::Upload(device(), std::vector<float>(count, 1e30F));
  native_->MlaOutput({Whole(parts), Whole(lse), splits, weights_, Whole(out), stride, T, c.H, c.R,
                      c.nope, c.dv, /*bf16=*/true});
  const std::vector<float> got = test::Download<float>(device(), out, count);
  // Of one split u is exact in bf16; the sum of several is rounded to it.
  const double rounding =
      splits > 1 ? 0x1p-8 / static_cast<double>(std::numeric_limits<float>::epsilon()) : 0;
  Worst worst;
  for (std::int64_t row = 0; row < T * c.H; row += row < 5 ? 1 : 17) {
    const std::vector<Reference> u = Merged(c, row, splits);
    for (std::int64_t n = 0; n < c.dv; ++n) {
      Reference want;
      for (std::int64_t r = 0; r < c.R; ++r) {
        const double w = Uv(c, row % c.H, n, r);
        want.value += u[static_cast<std::size_t>(r)].value * w;
        want.size += u[static_cast<std::size_t>(r)].size * std::fabs(w);
      }
      worst.See(got[static_cast<std::size_t>(row / c.H * stride + row % c.H * c.dv + n)], want,
                test::DotFactor(c.R) + 8 + rounding + Rounding(c.type, c.R), row, n);
    }
  }
  EXPECT_TRUE(worst.Verdict()) << "output " << c.H << " heads of " << c.R << " " << Name(c.type)
                               << " T " << T << " splits " << splits;
}

TEST_P(MlaHeadsMmaTest, QueryOfEveryFormat) {
  for (const DType type : kMatrixFormats) {
    CheckQueryMma({3, 512, 64, 128, 128, type}, 130, 0);
    if (BlockElements(type) <= 32) CheckQueryMma({2, 64, 16, 32, 32, type, false}, 32, 4);
  }
  CheckQueryMma({16, 512, 64, 128, 128, DType::kF8E4M3}, 300, 8);
  CheckQueryMma({2, 72, 6, 24, 40, DType::kBF16}, 129, 5);
}

TEST_P(MlaHeadsMmaTest, OutputOfEveryFormat) {
  for (const DType type : kMatrixFormats) {
    CheckOutputMma({3, 512, 64, 128, 128, type}, 130, 1);
    if (BlockElements(type) <= 32) CheckOutputMma({2, 64, 16, 32, 32, type, false}, 32, 3);
  }
  CheckOutputMma({16, 512, 64, 128, 128, DType::kF8E4M3}, 300, 2);
  CheckOutputMma({2, 72, 6, 24, 40, DType::kBF16}, 129, 8);
  CheckOutputMma({2, 72, 6, 24, 40, DType::kBF16}, 40, 9);  // more than this form merges
}

struct AttentionCase {
  std::int64_t H, R, d;
  std::vector<int> keys;  // of each row
  std::int64_t splits = 1;
  DType type = DType::kF32;
  float q_size = 1.0F;
  std::vector<int> sequence = {};  // of each row; empty: every row its own
  std::int64_t before = 0;         // runs of other launches for the same rows
  std::int64_t behind = 0;
  std::int64_t q_at = 0;  // where q begins in its buffer
};

struct Result {
  std::vector<float> parts, lse;
};

class MlaAttentionTest : public MlaTest {
 protected:
  void SetUp() override {
    MlaTest::SetUp();
    if (!IsSkipped() && CannotCompileGroups()) {
      GTEST_SKIP() << "the compiler of PoCL 5 fails an assertion on the work-group kernel";
    }
  }

  // Blocks of all sequences in shuffled order, as after many allocations.
  void Prepare(const AttentionCase& c) {
    bytes_ = TokenBytes(c.type, c.R, c.d);
    run_ = (BlocksFor(*std::max_element(c.keys.begin(), c.keys.end())) + c.splits - 1) / c.splits *
           kBlock;
    table_start_.clear();
    std::vector<int> start_of;
    int blocks = 0;
    for (std::size_t t = 0; t < c.keys.size(); ++t) {
      const std::size_t sequence =
          static_cast<std::size_t>(c.sequence.empty() ? static_cast<int>(t) : c.sequence[t]);
      if (sequence >= start_of.size()) {
        start_of.push_back(blocks);
        blocks += BlocksFor(MostKeys(c, static_cast<int>(sequence), t));
      }
      table_start_.push_back(start_of[sequence]);
    }
    tables_.resize(static_cast<std::size_t>(blocks));
    std::iota(tables_.begin(), tables_.end(), 0);
    std::shuffle(tables_.begin(), tables_.end(), std::mt19937(5));
    q_ = test::RandomFloats(c.keys.size() * static_cast<std::size_t>(c.H * (c.R + c.d)), 6,
                            c.q_size);
    FillCache(c, blocks);
  }
  static int BlocksFor(int keys) { return static_cast<int>((keys + kBlock - 1) / kBlock); }
  static int MostKeys(const AttentionCase& c, int sequence, std::size_t row) {
    if (c.sequence.empty()) return c.keys[row];
    int most = 0;
    for (std::size_t t = 0; t < c.keys.size(); ++t) {
      if (c.sequence[t] == sequence) most = std::max(most, c.keys[t]);
    }
    return most;
  }

  void FillCache(const AttentionCase& c, int blocks) {
    const std::int64_t tokens = blocks * kBlock;
    const std::vector<float> x =
        test::RandomFloats(static_cast<std::size_t>(tokens * (c.R + c.d)), 7);
    kv_.assign(static_cast<std::size_t>(tokens * bytes_), 0);
    values_.resize(x.size());
    for (std::int64_t token = 0; token < tokens; ++token) {
      std::uint8_t* row = kv_.data() + token * bytes_;
      for (std::int64_t i = 0; i < c.R + c.d; ++i) {
        EncodeValue(c, row, i, x[static_cast<std::size_t>(token * (c.R + c.d) + i)]);
      }
      for (std::int64_t i = 0; i < c.R + c.d; ++i) {
        values_[static_cast<std::size_t>(token * (c.R + c.d) + i)] =
            CacheValue(c.type, row, i, c.R);
      }
    }
  }
  static void EncodeValue(const AttentionCase& c, std::uint8_t* row, std::int64_t i, float value) {
    if (c.type != DType::kF8E4M3) {
      test::EncodeWeight(c.type, value, row + i * static_cast<std::int64_t>(BytesOf(c.type)));
    } else if (i >= c.R) {
      test::EncodeWeight(DType::kBF16, value, row + c.R + c.R / 32 + 2 * (i - c.R));
    } else {
      const float scale = 1.0F / 448 * (1.0F + 0.1F * static_cast<float>(i / 128));
      std::memcpy(row + c.R + i / 128 * 4, &scale, 4);
      row[i] = F32ToE4M3(value / scale);
    }
  }

  // Rows [first, first + T).
  Result Run(const AttentionCase& c, cl::Kernels& with, std::int64_t first, std::int64_t T,
             bool bf16 = false) {
    std::vector<float> moved(static_cast<std::size_t>(c.q_at));
    moved.insert(moved.end(), q_.begin(), q_.end());
    const ClBuffer q = test::Upload(device(), moved);
    const ClBuffer kv = test::Upload(device(), kv_);
    const ClBuffer tables = test::Upload(device(), tables_);
    const ClBuffer starts = test::Upload(device(), table_start_);
    const ClBuffer keys = test::Upload(device(), c.keys);
    const std::int64_t row = c.splits + c.before + c.behind;
    const std::size_t count = static_cast<std::size_t>(T * c.H * row);
    const std::size_t R = static_cast<std::size_t>(c.R);
    const ClBuffer parts = test::Upload(device(), std::vector<float>(count * R, 1e30F));
    const ClBuffer lse = test::Upload(device(), std::vector<float>(count, 1e30F));
    cl::MlaAttentionArgs a;
    a.q = {q.get(), c.q_at + first * c.H * (c.R + c.d)};
    a.kv = kv.get();
    a.kv_type = c.type;
    a.tables = Whole(tables);
    a.table_start = {starts.get(), first};
    a.n_keys = {keys.get(), first};
    a.max_keys = run_ * c.splits;
    a.T = T;
    a.H = c.H;
    a.R = c.R;
    a.d = c.d;
    a.scale = Scale(c);
    a.splits = c.splits;
    a.row_splits = row;
    a.parts = {parts.get(), c.before * c.R};
    a.lse = {lse.get(), c.before};
    a.bf16 = bf16;
    with.MlaAttention(a);
    return {Own(c, test::Download<float>(device(), parts, count * R), c.R),
            Own(c, test::Download<float>(device(), lse, count), 1)};
  }
  // This launch's runs of every row; those of others must be as they were.
  static std::vector<float> Own(const AttentionCase& c, const std::vector<float>& all,
                                std::int64_t width) {
    std::vector<float> own;
    const std::int64_t row = (c.splits + c.before + c.behind) * width;
    for (std::int64_t i = 0; i < std::ssize(all); ++i) {
      const std::int64_t at = i % row - c.before * width;
      const bool mine = at >= 0 && at < c.splits * width;
      if (mine) own.push_back(all[static_cast<std::size_t>(i)]);
      EXPECT_TRUE(mine || all[static_cast<std::size_t>(i)] == 1e30F) << "value " << i;
    }
    return own;
  }
  static float Scale(const AttentionCase& c) {
    return 1.0F / std::sqrt(static_cast<float>(c.R + c.d));
  }

  const double* Token(const AttentionCase& c, std::int64_t t, std::int64_t j) const {
    const std::int64_t entry = table_start_[static_cast<std::size_t>(t)] + j / kBlock;
    const std::int64_t slot = tables_[static_cast<std::size_t>(entry)] * kBlock + j % kBlock;
    return values_.data() + slot * (c.R + c.d);
  }

  // One row, head and run against double. `rounding` is what a probability may lose; it is counted
  // in epsilons.
  void See(const AttentionCase& c, std::int64_t t, std::int64_t h, std::int64_t s,
           const Result& got, Worst& worst, double rounding = 0) const {
    const std::int64_t part = (t * c.H + h) * c.splits + s;
    const float* out = got.parts.data() + part * c.R;
    const float lse = got.lse[static_cast<std::size_t>(part)];
    const std::int64_t first = s * run_;
    const std::int64_t last =
        std::min<std::int64_t>(first + run_, c.keys[static_cast<std::size_t>(t)]);
    if (first >= last) {
      EXPECT_EQ(lse, -std::numeric_limits<float>::infinity());
      for (std::int64_t r = 0; r < c.R; ++r) ASSERT_EQ(out[r], 0.0F);
      return;
    }
    const float* q = q_.data() + (t * c.H + h) * (c.R + c.d);
    std::vector<double> p;
    double score_size = 0;  // of the dot product, whose errors the softmax multiplies
    for (std::int64_t j = first; j < last; ++j) {
      Reference score;
      for (std::int64_t i = 0; i < c.R + c.d; ++i) score.Add(q[i], Token(c, t, j)[i]);
      p.push_back(score.value * Scale(c));
      score_size = std::max(score_size, score.size * Scale(c));
    }
    const double largest = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& v : p) total += v = std::exp(v - largest);
    const double factor = test::DotFactor(last - first) + test::DotFactor(c.R) * score_size;
    worst.See(lse, {largest + std::log(total), 1 + std::fabs(largest)}, factor, t, h);
    for (std::int64_t r = 0; r < c.R; ++r) {
      Reference want;
      for (std::int64_t j = first; j < last; ++j) {
        want.Add(p[static_cast<std::size_t>(j - first)] / total, Token(c, t, j)[r]);
      }
      worst.See(out[r], want, factor + rounding, t, h);
    }
  }

  void Check(const AttentionCase& c) {
    Prepare(c);
    const Result got = Run(c, kernels(), 0, std::ssize(c.keys));
    Worst worst;
    for (std::int64_t t = 0; t < std::ssize(c.keys); ++t) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        for (std::int64_t s = 0; s < c.splits; ++s) See(c, t, h, s, got, worst);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "H " << c.H << " R " << c.R << " d " << c.d << " splits "
                                 << c.splits << " " << Name(c.type);
  }

  std::int64_t bytes_ = 0, run_ = 0;
  std::vector<int> tables_, table_start_;
  std::vector<float> q_;
  std::vector<std::uint8_t> kv_;
  std::vector<double> values_;
};

// The form for matrix units against the same sums in double over what it rounds: q to the operands'
// type, f8 to bf16. Rounding the probabilities is all that the tolerance adds.
class MlaMmaTest : public MlaAttentionTest {
 protected:
  void SetUp() override {
    MlaAttentionTest::SetUp();
    if (IsSkipped()) return;
    cl::DeviceTraits traits = cl::TraitsOf(device());
    if (traits.nv_compute < 89) GTEST_SKIP() << device().info().name << " has no mma.sync on e4m3";
    native_ = std::make_unique<cl::Kernels>(device(), "", traits);
    if (traits.nv_compute != 90) return;
    traits.nv_compute = 89;
    without_wgmma_ = std::make_unique<cl::Kernels>(device(), "", traits);
  }
  static float Round(DType type, float value) {
    return type == DType::kF16 ? F16ToF32(F32ToF16(value)) : Bf16ToF32(F32ToBf16(value));
  }
  void CheckMma(const AttentionCase& c) {
    Prepare(c);
    for (float& v : q_) v = Round(c.type, v);
    for (double& v : values_) v = Round(c.type, static_cast<float>(v));
    CheckForm(c, *native_);
    if (without_wgmma_) CheckForm(c, *without_wgmma_);
  }
  void CheckForm(const AttentionCase& c, cl::Kernels& form) {
    const Result got = Run(c, form, 0, std::ssize(c.keys), true);
    const double rounding = (c.type == DType::kF16 ? 0x1p-11 : 0x1p-8) /
                            static_cast<double>(std::numeric_limits<float>::epsilon());
    Worst worst;
    for (std::int64_t t = 0; t < std::ssize(c.keys); ++t) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        for (std::int64_t s = 0; s < c.splits; ++s) See(c, t, h, s, got, worst, rounding);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "H " << c.H << " splits " << c.splits << " " << Name(c.type);
    CheckAlone(c, form, got);
  }
  // The last row by itself, bit for bit.
  void CheckAlone(const AttentionCase& c, cl::Kernels& form, const Result& all) {
    if (c.H % 64 != 0 && std::ssize(c.keys) * c.H >= 1024) return;  // alone it has another form
    const Result last = Run(c, form, std::ssize(c.keys) - 1, 1, true);
    const std::size_t offset = all.parts.size() - last.parts.size();
    for (std::size_t i = 0; i < last.parts.size(); ++i) {
      ASSERT_EQ(last.parts[i], all.parts[offset + i]) << i;
    }
  }
  std::unique_ptr<cl::Kernels> native_, without_wgmma_;
};

constexpr DType kMmaTypes[] = {DType::kF16, DType::kBF16, DType::kF8E4M3};

TEST_P(MlaMmaTest, ManyHeads) {
  for (const DType type : kMmaTypes) {
    CheckMma({128, 512, 64, {3, 130, 64}, 1, type});
    CheckMma({64, 512, 64, {1, 16, 17, 200}, 3, type});
  }
}

TEST_P(MlaMmaTest, FewHeads) {
  for (const DType type : kMmaTypes) {
    CheckMma({16, 512, 64, {1, 15, 33, 200}, 2, type});
    CheckMma({8, 512, 64, {5, 70, 64}, 1, type});
    CheckMma({20, 512, 64, {70}, 1, type});
  }
}

TEST_P(MlaMmaTest, RowsOfOneSequenceAndOfSeveral) {
  for (const DType type : kMmaTypes) {
    AttentionCase c{16, 512, 64, {}, 2, type};
    for (int t = 0; t < 70; ++t) {
      c.keys.push_back(t < 50 ? 40 + t : 100 - t);
      c.sequence.push_back(t < 50 ? 0 : (t < 61 ? 1 : t - 59));
    }
    CheckMma(c);
  }
}

TEST_P(MlaMmaTest, OneLaunchOfSeveral) {
  for (const DType type : kMmaTypes) {
    CheckMma({64, 512, 64, {0, 64, 130, 0}, 2, type, 1.0F, {}, 2, 1});
    CheckMma({16, 512, 64, {200, 0, 70}, 3, type, 1.0F, {}, 1, 2});
  }
}

// Queries are read in fours; others have another form.
TEST_P(MlaMmaTest, QueriesAnywhere) {
  for (const std::int64_t at : {4, 1}) {
    AttentionCase c{64, 512, 64, {17, 65}, 2, DType::kF16};
    c.q_at = at;
    CheckMma(c);
  }
}

TEST_P(MlaMmaTest, LongAndPeaked) {
  CheckMma({16, 512, 64, {3000}, 1, DType::kF16, 1.0F});
  CheckMma({128, 512, 64, {700}, 2, DType::kBF16, 60.0F});
}

TEST_P(MlaAttentionTest, EveryCacheType) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    Check({9, 512, 64, {3, 130}, 1, type});
    Check({5, 128, 16, {1, 63, 64, 65, 200}, 3, type});
  }
}

TEST_P(MlaAttentionTest, OddSizes) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    Check({3, 13, 6, {2, 66}, 2, type});
    Check({8, 64, 16, {70}, 1, type});
  }
}

TEST_P(MlaAttentionTest, EmptyRuns) { Check({2, 64, 16, {1, 64, 300}, 5}); }

// As where a row's keys lie in several buffers: some rows have none in this one.
TEST_P(MlaAttentionTest, OneLaunchOfSeveral) {
  Check({3, 64, 16, {0, 64, 130, 0}, 2, DType::kF16, 1.0F, {}, 2, 1});
  Check({9, 64, 16, {70, 3}, 1, DType::kF16, 1.0F, {}, 0, 3});
}

TEST_P(MlaAttentionTest, RowsOfOneSequence) {
  Check({4, 64, 16, {62, 63, 64, 65, 1, 2}, 2, DType::kF16, 1.0F, {0, 0, 0, 0, 1, 1}});
}

TEST_P(MlaAttentionTest, LongAndPeaked) {
  Check({2, 64, 16, {2000}, 1, DType::kF32, 1.0F});
  Check({2, 64, 16, {300}, 1, DType::kF32, 60.0F});  // nearly one-hot, maxima move far
}

TEST_P(MlaAttentionTest, ARowDoesNotDependOnTheOthers) {
  const AttentionCase c{9, 64, 16, {70, 1, 3, 64, 65, 129}, 2};
  Prepare(c);
  const Result all = Run(c, kernels(), 0, std::ssize(c.keys));
  const Result last = Run(c, kernels(), 5, 1);
  const std::size_t offset = all.parts.size() - last.parts.size();
  for (std::size_t i = 0; i < last.parts.size(); ++i) {
    ASSERT_EQ(last.parts[i], all.parts[offset + i]) << i;
  }
}

TEST(MlaSplits, FillsTheDeviceAndFitsTheScratch) {
  for (const std::int64_t T : {1, 3, 16, 64, 512}) {
    for (const std::int64_t H : {1, 8, 16, 128}) {
      for (const std::int64_t keys : {1, 64, 1000, 131072}) {
        const std::int64_t splits = cl::MlaSplits(T, H, keys, 132);
        EXPECT_GE(splits, 1);
        EXPECT_LE(T * H * splits, std::max(T * H, cl::kMlaParts + T * H));
        EXPECT_LE(splits, (keys + 63) / 64) << "runs are whole blocks";
      }
    }
  }
  EXPECT_EQ(cl::MlaSplits(1, 128, 131072, 132), 66);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaAppendTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, MlaHeadsTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, MlaHeadsMmaTest, ::testing::Values(Shapes::kGpu),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, MlaMmaTest, ::testing::Values(Shapes::kGpu),
                         ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Shapes, MlaAttentionTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
