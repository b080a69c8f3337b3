// ctest: unit
#include "memory/blocks.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr DType kFormats[] = {DType::kQ8_0,  DType::kQ4_0,   DType::kQ4_1,  DType::kQ5_0,
                              DType::kQ5_1,  DType::kIQ4_NL, DType::kMXFP4, DType::kQ2_K,
                              DType::kQ3_K,  DType::kQ4_K,   DType::kQ5_K,  DType::kQ6_K,
                              DType::kIQ4_XS};

// Equal bits; NaNs are all the same.
bool Same(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

struct GoldenBlocks {
  std::vector<std::byte> bytes;
  std::vector<float> values;
};

// tests/golden/make_blocks.py says how the file is laid out.
std::map<std::string, GoldenBlocks> ReadGoldenBlocks() {
  std::ifstream file(TANDEM_SOURCE_DIR "/tests/golden/blocks.bin", std::ios::binary);
  std::map<std::string, GoldenBlocks> golden;
  char name[9] = {};
  while (file.read(name, 8)) {
    std::uint32_t counts[2];
    file.read(reinterpret_cast<char*>(counts), sizeof(counts));
    const DType type = ParseWeightFormat(name).value();
    EXPECT_EQ(counts[1], BlockElements(type)) << name;
    GoldenBlocks& g = golden[name];
    g.bytes.resize(counts[0] * BlockBytes(type));
    g.values.resize(static_cast<std::size_t>(counts[0]) * counts[1]);
    file.read(reinterpret_cast<char*>(g.bytes.data()),
              static_cast<std::streamsize>(g.bytes.size()));
    file.read(reinterpret_cast<char*>(g.values.data()),
              static_cast<std::streamsize>(g.values.size() * sizeof(float)));
    EXPECT_TRUE(file.good()) << name;
  }
  return golden;
}

TEST(Blocks, EveryFormatDecodesToTheGoldenBits) {
  const auto golden = ReadGoldenBlocks();
  ASSERT_EQ(golden.size(), std::size(kFormats));
  for (const auto& [name, g] : golden) {
    std::vector<float> got(g.values.size());
    DecodeBlocks(ParseWeightFormat(name).value(), g.bytes.data(), got);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(Same(got[i], g.values[i]))
          << name << " value " << i << ": got " << got[i] << ", want " << g.values[i];
    }
  }
}

TEST(Blocks, DecodeAtAnyAlignment) {
  for (const auto& [name, g] : ReadGoldenBlocks()) {
    std::vector<std::byte> moved(g.bytes.size() + 1);
    std::memcpy(moved.data() + 1, g.bytes.data(), g.bytes.size());
    std::vector<float> got(g.values.size());
    DecodeBlocks(ParseWeightFormat(name).value(), moved.data() + 1, got);
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(Same(got[i], g.values[i])) << name;
  }
}

TEST(Blocks, EveryExponentOfMxfp4MeetsEveryCode) {
  const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int e = 0; e < 256; ++e) {
    BlockMXFP4 block{static_cast<std::uint8_t>(e), {}};
    for (int i = 0; i < 16; ++i) block.q[i] = static_cast<std::uint8_t>(i | (15 - i) << 4);
    std::vector<float> got(32);
    DecodeBlocks(DType::kMXFP4, reinterpret_cast<const std::byte*>(&block), got);
    for (int i = 0; i < 32; ++i) {
      const int code = i < 16 ? i : 31 - i;
      const double value = std::ldexp(e2m1[code & 7], e - 127);
      ASSERT_EQ(got[i], static_cast<float>(code < 8 ? value : -value)) << e << " " << code;
    }
  }
}

TEST(Blocks, StructsAreAsLargeAsTheirBlocks) {
  EXPECT_EQ(sizeof(BlockQ8_0), BlockBytes(DType::kQ8_0));
  EXPECT_EQ(sizeof(BlockMXFP4), BlockBytes(DType::kMXFP4));
  EXPECT_EQ(sizeof(BlockQ6_K), BlockBytes(DType::kQ6_K));
  for (const DType type : kFormats) {
    EXPECT_EQ(DataBytes(type, 512), 512 / BlockElements(type) * BlockBytes(type)) << Name(type);
    EXPECT_EQ(PackedBytes(type, 17, 256), DataBytes(type, 32 * 256)) << Name(type);
  }
}

TEST(Blocks, PartsOfABlockAndScalarTypesAreRefused) {
  std::vector<std::byte> bytes(4096);
  std::vector<float> out(255);
  EXPECT_THROW(DecodeBlocks(DType::kQ4_K, bytes.data(), out), Error);
  out.resize(256);
  EXPECT_THROW(DecodeBlocks(DType::kBF16, bytes.data(), out), Error);
}

}  // namespace
}  // namespace tandem
