// ctest: unit
#include "memory/split_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "memory/blocks.h"
#include "tests/support/random.h"

namespace tandem {
namespace {

constexpr DType kBlockFormats[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kMXFP4,
                                   DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

struct Split {
  std::vector<std::byte> data, side;
};

std::vector<std::byte> RandomBytes(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random() >> 11);
  return bytes;
}

Split SplitAll(DType type, const std::byte* blocks, std::int64_t rows, std::int64_t cols) {
  Split out{std::vector<std::byte>(SplitDataBytes(type, rows, cols)),
            std::vector<std::byte>(SplitSideBytes(type, rows, cols))};
  std::array<std::byte*, 3> side = {};
  for (int i = 0; i < 3; ++i) {
    side[i] = out.side.data() + SplitSideOffset(type, rows, cols, i);
  }
  SplitBlocks(type, blocks, rows, cols, out.data.data(), side);
  return out;
}

// The block of row r, number b, put together again from the table in split_layout.h.
std::vector<std::byte> Join(DType type, const Split& s, std::int64_t rows, std::int64_t cols,
                            std::int64_t r, std::int64_t b) {
  const std::int64_t index = r * (cols / BlockElements(type)) + b;
  const auto side = [&](int i, std::size_t bytes) {
    return s.side.data() + SplitSideOffset(type, rows, cols, i) + index * bytes;
  };
  std::vector<std::byte> block(BlockBytes(type));
  const auto put = [&](std::size_t at, const std::byte* from, std::size_t bytes) {
    std::memcpy(block.data() + at, from, bytes);
  };
  const std::byte* data = s.data.data();
  switch (type) {
    case DType::kQ8_0:
      put(0, side(0, 2), 2);
      put(2, data + index * 32, 32);
      break;
    case DType::kQ4_0:
      put(0, side(0, 2), 2);
      put(2, data + index * 16, 16);
      break;
    case DType::kQ5_0:
      put(0, side(0, 2), 2);
      put(2, side(1, 4), 4);
      put(6, data + index * 16, 16);
      break;
    case DType::kMXFP4:
      put(0, side(0, 1), 1);
      put(1, data + index * 16, 16);
      break;
    case DType::kQ4_K:
      put(0, side(0, 16), 16);
      put(16, data + index * 128, 128);
      break;
    case DType::kQ5_K:
      put(0, side(0, 16), 16);
      put(16, data + index * 160 + 128, 32);
      put(48, data + index * 160, 128);
      break;
    default:
      put(0, data + index * 192, 192);
      put(192, side(0, 16), 16);
      put(208, side(1, 2), 2);
  }
  return block;
}

TEST(SplitLayout, EveryBlockComesBackWhole) {
  for (const DType type : kBlockFormats) {
    for (const std::int64_t rows : {1, 3, 5}) {
      for (const std::int64_t blocks : {1, 3, 8}) {
        for (const std::size_t shift : {0, 1, 7}) {
          const std::int64_t cols = blocks * BlockElements(type);
          const std::vector<std::byte> file = RandomBytes(shift + DataBytes(type, rows * cols),
                                                          17U + static_cast<unsigned>(blocks));
          const Split split = SplitAll(type, file.data() + shift, rows, cols);
          for (std::int64_t i = 0; i < rows * blocks; ++i) {
            const std::vector<std::byte> got =
                Join(type, split, rows, cols, i / blocks, i % blocks);
            ASSERT_EQ(0, std::memcmp(got.data(), file.data() + shift + i * got.size(), got.size()))
                << Name(type) << " rows " << rows << " block " << i << " shift " << shift;
          }
        }
      }
    }
  }
}

// What a kernel reads must mean what DecodeBlocks says: the codes of Q4_0 with their scale.
TEST(SplitLayout, SplitCodesDecodeAsTheFileDoes) {
  const std::int64_t cols = 96;
  const std::vector<std::byte> file = RandomBytes(1 + DataBytes(DType::kQ4_0, 2 * cols), 5);
  const Split split = SplitAll(DType::kQ4_0, file.data() + 1, 2, cols);
  std::vector<float> want(2 * cols);
  DecodeBlocks(DType::kQ4_0, file.data() + 1, want);
  for (std::int64_t i = 0; i < 2 * cols; ++i) {
    std::uint16_t d = 0;
    std::memcpy(&d, split.side.data() + i / 32 * 2, 2);
    const int byte = static_cast<int>(split.data[i / 32 * 16 + i % 16]);
    const float got = F16ToF32(d) * static_cast<float>((byte >> (i % 32 / 16 * 4) & 15) - 8);
    if (want[i] == want[i]) {
      EXPECT_EQ(got, want[i]) << i;
    }  // a random scale may be NaN
  }
}

TEST(SplitLayout, SideArraysBeginOnWholeVectors) {
  for (const DType type : kBlockFormats) {
    const std::int64_t cols = 3 * BlockElements(type);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(SplitSideOffset(type, 5, cols, i) % 16, 0U);
    const SplitRow row = SplitRowOf(type, cols);
    EXPECT_EQ(row.data + row.side[0] + row.side[1] + row.side[2], DataBytes(type, cols))
        << Name(type);
    EXPECT_GE(SplitSideBytes(type, 5, cols), 5 * (row.side[0] + row.side[1] + row.side[2]));
  }
  EXPECT_EQ(SplitSideOffset(DType::kQ5_0, 5, 96, 1), 32U);  // 5 rows of 3 scales are 30 bytes
}

TEST(SplitLayout, ScalarFormatsStayWhole) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    EXPECT_TRUE(IsDeviceFormat(type));
    EXPECT_EQ(SplitDataBytes(type, 3, 7), 21 * BytesOf(type));
    EXPECT_EQ(SplitSideBytes(type, 3, 7), 0U);
  }
  for (const DType type : kBlockFormats) EXPECT_TRUE(IsDeviceFormat(type));
  for (const DType type : {DType::kQ4_1, DType::kIQ4_XS, DType::kQ2_K, DType::kI32}) {
    EXPECT_FALSE(IsDeviceFormat(type)) << Name(type);
  }
}

}  // namespace
}  // namespace tandem
