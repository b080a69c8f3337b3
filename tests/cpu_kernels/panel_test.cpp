// ctest: unit
#include "cpu_kernels/panel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace tandem::cpu {
namespace {

// Random bytes: every code and every scale there is, infinite and NaN ones among them.
std::vector<std::byte> RandomBytes(std::size_t count, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Integer(0, 255));
  return bytes;
}

struct Packed {
  explicit Packed(std::size_t size) : storage(size + 128) {}
  std::byte* data() {  // 64-byte aligned
    const auto at = reinterpret_cast<std::uintptr_t>(storage.data());
    return storage.data() + (64 - at % 64) % 64;
  }
  std::vector<std::byte> storage;
};

std::vector<float> DecodePanels(DType type, const std::byte* panels, std::int64_t rows,
                                std::int64_t cols) {
  const std::int64_t count = (rows + kPanelRows - 1) / kPanelRows;
  std::vector<float> out(static_cast<std::size_t>(count * kPanelRows * cols));
  for (std::int64_t p = 0; p < count; ++p) {
    DecodePanel(type, panels + PackedBytes(type, p * kPanelRows, cols), cols,
                out.data() + p * kPanelRows * cols);
  }
  return out;
}

// Equal in all bits; which of two NaNs a sum of both keeps is the compiler's choice.
void ExpectSame(float got, float want, const std::string& where) {
  if (std::isnan(want) && std::isnan(got)) return;
  ASSERT_EQ(std::memcmp(&got, &want, sizeof got), 0) << where << ": " << got << ", want " << want;
}

void CheckShape(DType type, std::int64_t rows, std::int64_t cols) {
  const std::vector<std::byte> blocks =
      RandomBytes(DataBytes(type, rows * cols), static_cast<std::uint64_t>(rows * 10000 + cols));
  const std::size_t size = PackedBytes(type, rows, cols);
  Packed packed(size);
  std::memset(packed.data() + size, 0x5A, 64);
  PackPanels(type, blocks.data(), rows, cols, packed.data());
  const std::vector<float> got = DecodePanels(type, packed.data(), rows, cols);
  std::vector<float> want(static_cast<std::size_t>(rows * cols));
  DecodeBlocks(type, blocks.data(), want);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::string where = std::string(Name(type)) + " rows " + std::to_string(rows) + " cols " +
                              std::to_string(cols) + " at " + std::to_string(i);
    if (i < want.size()) {
      ExpectSame(got[i], want[i], where);
    } else {
      ASSERT_EQ(got[i], 0) << where << ": beyond the last row";
    }
  }
  for (std::size_t i = 0; i < 64; ++i) {
    ASSERT_EQ(packed.data()[size + i], std::byte{0x5A}) << Name(type) << " wrote past the end";
  }
}

class Panel : public ::testing::TestWithParam<int> {};

TEST_P(Panel, DecodesToTheBitsOfItsBlocks) {
  const auto type = static_cast<DType>(GetParam());
  const std::int64_t width = BlockElements(type);
  for (std::int64_t rows = 1; rows <= 33; ++rows) CheckShape(type, rows, width);
  for (const std::int64_t units : {2, 3, 5, 8}) {
    for (const std::int64_t rows : {1, 16, 21, 48}) CheckShape(type, rows, units * width);
  }
}

TEST_P(Panel, PanelsPackedApartEqualThosePackedTogether) {
  const auto type = static_cast<DType>(GetParam());
  const std::int64_t cols = 2 * BlockElements(type);
  const std::int64_t rows = 45;
  const std::vector<std::byte> blocks = RandomBytes(DataBytes(type, rows * cols), 5);
  const std::size_t size = PackedBytes(type, rows, cols);
  Packed together(size);
  Packed apart(size);
  PackPanels(type, blocks.data(), rows, cols, together.data());
  for (const std::int64_t row : {32, 0}) {
    PackPanels(type, blocks.data() + DataBytes(type, row * cols), row == 0 ? 32 : rows - row, cols,
               apart.data() + PackedBytes(type, row, cols));
  }
  EXPECT_EQ(std::memcmp(together.data(), apart.data(), size), 0) << Name(type);
}

// Unsigned codes of 8 bits lie as the header says, whatever DecodePanel believes.
TEST(PanelLayout, OfEightBitsIsQuadRowColumn) {
  BlockQ8_0 rows[kPanelRows] = {};
  rows[3].q[21] = 42;
  alignas(64) std::byte packed[sizeof(PanelQ8_0)];
  PackPanels(DType::kQ8_0, reinterpret_cast<const std::byte*>(rows), kPanelRows, 32, packed);
  const std::size_t at = offsetof(PanelQ8_0, q) + 5 * 64 + 3 * 4 + 1;
  EXPECT_EQ(packed[at], std::byte{128 + 42});
  EXPECT_EQ(packed[at + 1], std::byte{128});
}

TEST(PanelLayout, OfFourBitsPairsQuadsFourApart) {
  BlockQ4_0 rows[kPanelRows] = {};
  rows[9].q[6] = 0xA7;  // columns 6 and 22: byte 2 of quads 1 and 5
  alignas(64) std::byte packed[sizeof(PanelQ4_0)];
  PackPanels(DType::kQ4_0, reinterpret_cast<const std::byte*>(rows), kPanelRows, 32, packed);
  EXPECT_EQ(packed[offsetof(PanelQ4_0, q) + 1 * 64 + 9 * 4 + 2], std::byte{0xA7});
}

INSTANTIATE_TEST_SUITE_P(BlockFormats, Panel,
                         ::testing::Range(kNumScalarFormats, kNumWeightFormats),
                         [](const auto& param) {
                           return std::string(Name(static_cast<DType>(param.param)));
                         });

}  // namespace
}  // namespace tandem::cpu
