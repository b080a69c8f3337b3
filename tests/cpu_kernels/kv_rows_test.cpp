// ctest: unit
// Rows of the KV cache, encoded and decoded.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Random;

// Encoded rows come back within half a step of their block's scale.
TEST(KvRows, RoundTrip) {
  Random random(7);
  const std::int64_t width = 576;
  const std::vector<float> x = random.Uniforms(width, -3, 3);
  const KernelTable ref = MakeKernelTable(Isa::kRef);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kF8E4M3}) {
    const KvLayout layout{type, width, 512};
    std::vector<std::uint8_t> row(static_cast<std::size_t>(KvRowBytes(layout)));
    ref.kv_encode({layout, x.data(), width, row.data(), 1});
    for (const Isa isa : SupportedIsas()) {
      std::vector<float> got(static_cast<std::size_t>(width));
      MakeKernelTable(isa).kv_decode({layout, row.data(), 1, got.data(), DType::kF32, width});
      for (std::size_t i = 0; i < got.size(); ++i) {
        const bool roped = type == DType::kF8E4M3 && i >= 512;
        const double relative = test::UnitRoundoff(roped ? DType::kBF16 : type);
        // q8_0: half of 3 / 127 and the scale's own rounding; f8: subnormal codes of 3 / 448.
        const double absolute = type == DType::kQ8_0     ? 0.5 * 3 / 127 * (1 + 0x1p-9)
                                : type == DType::kF8E4M3 ? 3.0 / 448 * 0x1p-10
                                                         : 0;
        const double error = std::fabs(static_cast<double>(got[i]) - x[i]);
        ASSERT_LE(error, absolute + (type == DType::kQ8_0 ? 0 : relative * 1.01 * std::fabs(x[i])))
            << Name(isa) << " " << Name(type) << " " << i << ": " << x[i] << " became " << got[i];
      }
    }
  }
}

// bf16 copies are the f32 values rounded; tiles may round subnormals to zero.
TEST(KvRows, DecodesToBf16) {
  Random random(8);
  const std::int64_t width = 576;
  const std::vector<float> x = random.Uniforms(3 * width, -3, 3);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kF8E4M3}) {
    const KvLayout layout{type, width, 512};
    std::vector<std::uint8_t> rows(static_cast<std::size_t>(3 * KvRowBytes(layout)));
    MakeKernelTable(Isa::kRef).kv_encode({layout, x.data(), width, rows.data(), 3});
    for (const Isa isa : SupportedIsas()) {
      std::vector<float> f32(static_cast<std::size_t>(3 * width));
      std::vector<std::uint16_t> bf16(f32.size());
      const KernelTable table = MakeKernelTable(isa);
      table.kv_decode({layout, rows.data(), 3, f32.data(), DType::kF32, width});
      table.kv_decode({layout, rows.data(), 3, bf16.data(), DType::kBF16, width});
      for (std::size_t i = 0; i < f32.size(); ++i) {
        ASSERT_EQ(bf16[i], F32ToBf16(f32[i])) << Name(isa) << " " << Name(type) << " " << i;
      }
    }
  }
}

TEST(KvRows, BytesOfARow) {
  EXPECT_EQ(KvRowBytes({DType::kF8E4M3, 576, 512}), 656);  // DeepSeek-V3.2's token
  EXPECT_EQ(KvRowBytes({DType::kQ8_0, 576, 512}), 612);
  EXPECT_EQ(KvRowBytes({DType::kF16, 576, 512}), 1152);
}

}  // namespace
}  // namespace tandem::cpu