// ctest: opencl
// Routed experts with x and act in FP8: rows of codes bit by bit, and the sums against the
// double-precision formula over the same codes.
#include <fmt/ranges.h>

#include <cstring>
#include <optional>

#include "cl_kernels/gemm.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/programs.h"
#include "tests/support/cl_fixture.h"
#include "tests/support/e4m3_codes.h"

namespace tandem {
namespace {

using test::Codes;
using test::CodesOf;
using test::Download;
using test::MakeWeight;
using test::RandomFloats;
using test::Reference;
using test::ScaledInputs;
using test::TestWeight;
using test::Upload;
using test::ValueOf;
using test::WeightBlob;
using test::Worst;

// Two experts of different F, pairs of more than one tile each.
class Layer {
 public:
  static constexpr std::int64_t kT = 70;
  static constexpr std::int64_t kC = 4;
  static constexpr std::int64_t kD = 400;
  static constexpr std::int64_t kF = 272;

  Layer() {
    Add(kF, 150);
    Add(144, 130);
    x_ = ScaledInputs(kT * kD, 21);
    weight_ = RandomFloats(kT * kC, 23);
    for (std::int64_t p = 0; p < kT * kC; ++p) row_.push_back(static_cast<cl_int>(p * 29 % kT));
  }

  ::testing::AssertionResult Run(const ClDevice& device, cl::Programs& programs) {
    const ClBuffer slab = blob_.Upload(device);
    const cl_mem slabs[] = {slab.get()};
    const ClBuffer table = Upload(device, table_);
    const ClBuffer tiles = Upload(device, tiles_);
    const ClBuffer n_tiles =
        Upload(device, std::vector<cl_int>{static_cast<cl_int>(tiles_.size())});
    const ClBuffer row = Upload(device, row_);
    const ClBuffer weight = Upload(device, weight_);
    const ClBuffer x = Upload(device, x_);
    const ClBuffer act = Upload(device, std::vector<float>(kT * kC * kF));
    const ClBuffer out = Upload(device, std::vector<float>(kT * kC * kD));
    const ClBuffer work = device.Allocate(static_cast<std::size_t>(cl::GemmWorkFloats(kT, kD)) * 4);
    cl::ExpertsArgs a;
    a.slabs = slabs;
    a.gate_up = a.down = DType::kF8E4M3;
    a.D = a.x_stride = a.y_stride = kD;
    a.F = kF;
    a.table = {table.get(), 0};
    a.tiles = {tiles.get(), 0};
    a.n_tiles = {n_tiles.get(), 0};
    a.max_tiles = static_cast<std::int64_t>(tiles_.size());
    a.tile_rows = cl::kGemmTileRows;
    a.pair_row = {row.get(), 0};
    a.pair_weight = {weight.get(), 0};
    a.T = kT;
    a.C = kC;
    a.x = {x.get(), 0};
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    a.sum = false;
    a.bf16 = a.fp8 = true;
    a.work = {work.get(), 0};
    cl::LaunchExpertsGemm(programs, a);
    std::vector<float> acts;
    for (const std::uint16_t v : Download<std::uint16_t>(device, act, kT * kC * kF)) {
      acts.push_back(Bf16ToF32(v));
    }
    const auto result = CompareActs(acts);
    return result ? CompareDowns(acts, Download<float>(device, out, kT * kC * kD)) : result;
  }

 private:
  struct Expert {
    TestWeight gate, up, down;
    std::int64_t F, first, n;
  };

  void Add(std::int64_t F, std::int64_t n) {
    const auto seed = static_cast<unsigned>(31 + 5 * experts_.size());
    const auto number = static_cast<cl_int>(experts_.size());
    const std::int64_t first = experts_.empty() ? 0 : experts_.back().first + experts_.back().n;
    experts_.push_back({MakeWeight(DType::kF8E4M3, F, kD, seed),
                        MakeWeight(DType::kF8E4M3, F, kD, seed + 1),
                        MakeWeight(DType::kF8E4M3, kD, F, seed + 2), F, first, n});
    const cl::Weight gate = blob_.Add(experts_.back().gate);
    const cl::Weight up = blob_.Add(experts_.back().up);
    const cl::Weight down = blob_.Add(experts_.back().down);
    table_.push_back({gate.offset, gate.scale_offset, up.offset, up.scale_offset, down.offset,
                      down.scale_offset, 0, static_cast<cl_int>(F)});
    for (std::int64_t p = 0; p < n; p += cl::kGemmTileRows) {
      tiles_.push_back({number, static_cast<cl_int>(first + p),
                        static_cast<cl_int>(std::min(n - p, cl::kGemmTileRows)), 0});
    }
  }

  // Of row t of codes with K columns.
  static Reference Dot(const Codes& x, std::int64_t t, const TestWeight& w, std::int64_t n,
                       std::int64_t K) {
    Reference sum;
    const std::int64_t blocks = cl::CeilDiv(K, test::kE4m3Block);
    for (std::int64_t k = 0; k < K; ++k) {
      const double scale = x.scales[static_cast<std::size_t>(t * blocks + k / test::kE4m3Block)];
      sum.Add(ValueOf(x.codes[static_cast<std::size_t>(t * K + k)]) * scale,
              w.values[static_cast<std::size_t>(n * K + k)]);
    }
    return sum;
  }
  // That of the matrix units (gemm_f8_test.cpp) and half a step of bf16.
  static double Factor(std::int64_t K) { return 4 * test::DotFactor(K) + 128 * 0x1p10 + 0x1p16; }

  ::testing::AssertionResult CompareActs(const std::vector<float>& acts) const {
    const Codes x = CodesOf(x_, 0, kD, kT, kD);
    Worst worst;
    for (const Expert& e : experts_) {
      for (std::int64_t p = e.first; p < e.first + e.n; ++p) {
        for (std::int64_t f = 0; f < e.F; f += f % 16 == 5 ? 7 : 1) {
          const std::int64_t t = row_[static_cast<std::size_t>(p)];
          const double weight = weight_[static_cast<std::size_t>(p)];
          const Reference gate = Dot(x, t, e.gate, f, kD);
          const Reference up = Dot(x, t, e.up, f, kD);
          const double silu = gate.value / (1 + std::exp(-gate.value));
          Reference want;
          want.value = weight * silu * up.value;
          want.size = std::fabs(weight) *
                      (1.1 * gate.size * std::fabs(up.value) + std::fabs(silu) * up.size);
          worst.See(acts[static_cast<std::size_t>(p * kF + f)], want, Factor(kD), p, f);
        }
      }
    }
    return worst.Verdict();
  }

  ::testing::AssertionResult CompareDowns(const std::vector<float>& acts,
                                          const std::vector<float>& out) const {
    Worst worst;
    for (const Expert& e : experts_) {
      const Codes x = CodesOf(acts, e.first * kF, kF, e.n, e.F);
      for (std::int64_t p = 0; p < e.n; ++p) {
        for (std::int64_t d = 0; d < kD; d += d % 16 == 5 ? 7 : 1) {
          worst.See(out[static_cast<std::size_t>((e.first + p) * kD + d)],
                    Dot(x, p, e.down, d, e.F), Factor(e.F), p, d);
        }
      }
    }
    return worst.Verdict();
  }

  WeightBlob blob_;
  std::vector<Expert> experts_;
  std::vector<cl::ExpertEntry> table_;
  std::vector<cl::ExpertTile> tiles_;
  std::vector<cl_int> row_;
  std::vector<float> x_, weight_;
};

class GemmF8Experts : public test::ClTest {
 protected:
  cl::Programs& programs() {
    static std::optional<cl::Programs> programs;
    if (!programs) programs.emplace(device(), cl::TraitsOf(device()), "");
    return *programs;
  }
};

// Every code where an item that gathers rows reads it, zeros beyond K, scales behind all rows.
TEST_F(GemmF8Experts, CodesRowByRow) {
  constexpr std::int64_t kT = 21;
  constexpr std::int64_t kK = 264;
  constexpr std::int64_t kStride = 267;
  const std::vector<float> x = ScaledInputs(kT * kStride + 3, 13);
  const Codes want = CodesOf(x, 3, kStride, kT, kK);
  const ClBuffer in = Upload(device(), x);
  constexpr std::size_t kBytes = kT * 384;
  const ClBuffer out = Upload(device(), std::vector<std::uint8_t>(kBytes + kT * 3 * 4, 1));
  const cl_kernel kernel = programs().Kernel(cl::Program::kE4m3, DType::kF8E4M3, "e4m3_rows");
  cl::Arguments(kernel).Set(cl::Span{in.get(), 3}, cl_long{kStride}, cl_int{0}, cl_int{kT},
                            cl_int{kK}, cl::Span{out.get(), 0});
  cl::Enqueue(programs(), kernel, {6, 1, 1}, 256);
  const auto got = Download<std::uint8_t>(device(), out, kBytes + kT * 3 * 4);
  for (std::int64_t t = 0; t < kT; ++t) {
    for (std::int64_t k = 0; k < 384; ++k) {
      const std::int64_t word = k % 128 / 64 * 16 + k % 16 / 4 * 4 + k % 64 / 32 * 2 + k % 32 / 16;
      const int code = k < kK ? want.codes[static_cast<std::size_t>(t * kK + k)] : 0;
      ASSERT_EQ(got[static_cast<std::size_t>(t * 384 + k / 128 * 128 + word * 4 + k % 4)], code)
          << t << " " << k;
    }
    for (std::int64_t b = 0; b < 3; ++b) {
      float scale = 0;
      std::memcpy(&scale, &got[kBytes + static_cast<std::size_t>(t * 3 + b) * 4], 4);
      EXPECT_EQ(scale, want.scales[static_cast<std::size_t>(t * 3 + b)]) << t << " " << b;
    }
  }
}

TEST_F(GemmF8Experts, ThroughWgmma) {
  if (programs().traits().nv_compute != 90) {
    GTEST_SKIP() << device().info().name << " has no wgmma";
  }
  EXPECT_TRUE(Layer().Run(device(), programs()));
}

}  // namespace
}  // namespace tandem
