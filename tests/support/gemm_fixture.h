#pragma once

#include <optional>

#include "cl_kernels/gemm.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/programs.h"
#include "tests/support/cl_fixture.h"

// What the tests of products of many rows share. What these compute exactly is known: x and the
// weights in bf16, so the reference rounds both as they do and the tolerance is that of sums in
// f32.
namespace tandem::test {

inline constexpr DType kGemmFormats[] = {DType::kBF16, DType::kF8E4M3, DType::kF16,  DType::kF32,
                                         DType::kQ8_0, DType::kQ4_0,   DType::kQ5_0, DType::kMXFP4,
                                         DType::kQ4_K, DType::kQ5_K,   DType::kQ6_K};

inline double Rounded(double value) { return Bf16ToF32(F32ToBf16(static_cast<float>(value))); }

class GemmTest : public ClTest {
 protected:
  // Shared by the tests, because compiling takes longer than running.
  cl::Programs& programs() {
    static std::optional<cl::Programs> programs;
    cl::DeviceTraits traits = cl::TraitsOf(device());
    traits.wgmma_products = true;
    if (!programs) programs.emplace(device(), traits, "");
    return *programs;
  }
  // As on a device of compute capability 8.0.
  cl::Programs& without_wgmma() {
    static std::optional<cl::Programs> programs;
    cl::DeviceTraits traits = cl::TraitsOf(device());
    traits.nv_compute = 80;
    if (!programs) programs.emplace(device(), traits, "");
    return *programs;
  }
  bool HasMma() { return programs().traits().nv_compute >= 80; }
};

#define NEEDS_MMA() \
  if (!HasMma()) GTEST_SKIP() << device().info().name << " has no mma.sync"

// Whether FP8's weights are rounded with their scales, or partial sums are scaled in f32.
inline bool FoldsScales(const cl::Programs& programs) {
  return programs.traits().nv_compute == 90 && programs.traits().wgmma_products;
}

// The values that a kernel multiplies by.
inline void RoundWeights(TestWeight* w, bool folds_scales) {
  if (w->dtype == DType::kF8E4M3 && !folds_scales) return;
  for (double& v : w->values) v = Rounded(v);
}

// The same of gemm_turned.cl in Q4_K, which rounds a run's scale and minimum, too.
inline void RoundTurned(TestWeight* w) {
  for (std::int64_t i = 0; i < w->rows * w->cols; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::uint8_t* const header = &w->side[at / 256 * 16];
    const std::uint8_t* const s = header + 4;
    std::uint16_t d = 0;
    std::uint16_t dmin = 0;
    std::memcpy(&d, header, 2);
    std::memcpy(&dmin, header + 2, 2);
    const std::size_t run = at % 256 / 32;
    const int scale = run < 4 ? s[run] & 63 : (s[run + 4] & 15) | s[run - 4] >> 6 << 4;
    const int least = run < 4 ? s[run + 4] & 63 : s[run + 4] >> 4 | s[run] >> 6 << 4;
    const int code = w->bytes[at / 64 * 32 + at % 32] >> at % 64 / 32 * 4 & 15;
    const double a = F16ToF32(d) * static_cast<float>(scale);
    const double b = F16ToF32(dmin) * static_cast<float>(least);
    w->values[at] = Rounded(Rounded(a) * code + Rounded(8 * (a - Rounded(a)) - b));
  }
}

// Where column k is in the order of gemm_turned.cl, in blocks of `columns`; 0: where it was.
inline std::int64_t TurnedPlace(std::int64_t k, std::int64_t columns) {
  if (columns == 0) return k;
  const std::int64_t in_block = k % columns;
  const std::int64_t step = columns == 64 ? 0 : in_block % 64 / 32 + in_block % 32 / 16 * 2;
  const std::int64_t item = in_block / (columns / 4);
  return k - in_block + 64 * step + k % 16 / 4 * 16 + k % 4 / 2 * 8 + item * 2 + k % 2;
}

}  // namespace tandem::test
