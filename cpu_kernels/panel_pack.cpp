#include <cstddef>
#include <cstring>

#include "cpu_kernels/panel.h"
#include "memory/error.h"

// Packing moves codes as words of four neighbouring columns: the words of 16 rows are gathered side
// by side first, so that what then happens to the bits happens to 16 rows at once, in loops over
// the rows that every compiler turns into vector instructions.

namespace tandem::cpu {
namespace {

struct Rows {
  const std::byte* at[kPanelRows];  // one block each
};

template <class T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void Gather(const Rows& rows, std::size_t offset, Lanes16& out) {
  for (int r = 0; r < kPanelRows; ++r) out[r] = Load<std::uint16_t>(rows.at[r] + offset);
}

// out[i][r] = word i of row r.
template <int kWords>
void GatherWords(const Rows& rows, std::size_t offset, Lanes32 (&out)[kWords]) {
  for (int r = 0; r < kPanelRows; ++r) {
    for (int i = 0; i < kWords; ++i) {
      out[i][r] = Load<std::uint32_t>(rows.at[r] + offset + 4 * static_cast<std::size_t>(i));
    }
  }
}

// out[i][r] = byte i of row r's words.
void SpreadBytes(const Lanes32* words, int bytes, std::uint8_t (*out)[kPanelRows]) {
  for (int i = 0; i < bytes; ++i) {
    for (int r = 0; r < kPanelRows; ++r) {
      out[i][r] = static_cast<std::uint8_t>(words[i / 4][r] >> (i % 4 * 8));
    }
  }
}

// A block of 32 values of 4 bits holds value j and j + 16 in one byte, as the panel does.
void PackHalves(const Rows& rows, std::size_t offset, Codes4& to) {
  Lanes32 words[4];
  GatherWords(rows, offset, words);
  std::memcpy(to, words, sizeof to);
}

// 32 columns whose codes are the halves of 8 words that begin at bit `shift`.
void MergeHalves(const Lanes32* words, int shift, Codes4& to) {
  constexpr std::uint32_t kLow = 0x0F0F0F0FU;
  Lanes32 merged[4];
  for (int v = 0; v < 4; ++v) {
    for (int r = 0; r < kPanelRows; ++r) {
      const std::uint32_t low = words[v][r] >> shift & kLow;
      merged[v][r] = low | (words[v + 4][r] >> shift & kLow) << 4;
    }
  }
  std::memcpy(to, merged, sizeof to);
}

// 32 columns whose codes are the two bits from `shift` on of the bytes of 8 words.
void MergePairs(const Lanes32* words, int shift, Codes2& to) {
  Lanes32 merged[2];
  for (int v = 0; v < 2; ++v) {
    for (int r = 0; r < kPanelRows; ++r) {
      std::uint32_t word = 0;
      for (int b = 0; b < 4; ++b) {
        word |= (words[4 * v + b][r] >> shift & 0x03030303U) << (2 * b);
      }
      merged[v][r] = word;
    }
  }
  std::memcpy(to, merged, sizeof to);
}

// 32 columns whose codes are bit `shift` of the bytes of 8 words.
void MergeBits(const Lanes32* words, int shift, Codes1& to) {
  Lanes32 merged;
  for (int r = 0; r < kPanelRows; ++r) {
    std::uint32_t word = 0;
    for (int b = 0; b < 8; ++b) word |= (words[b][r] >> shift & 0x01010101U) << b;
    merged[r] = word;
  }
  std::memcpy(to, merged, sizeof to);
}

// 32 columns whose codes are the bits of one word: four neighbours go to the four bytes.
void SpreadBits(const Rows& rows, std::size_t offset, Codes1& to) {
  Lanes32 words[1];
  GatherWords(rows, offset, words);
  Lanes32 spread;
  for (int r = 0; r < kPanelRows; ++r) {
    std::uint32_t word = 0;
    for (int b = 0; b < 8; ++b) {
      const std::uint32_t four = words[0][r] >> (4 * b) & 15;
      word |= ((four | four << 7 | four << 14 | four << 21) & 0x01010101U) << b;
    }
    spread[r] = word;
  }
  std::memcpy(to, spread, sizeof to);
}

void Pack(const Rows& rows, PanelQ8_0& to) {
  Gather(rows, offsetof(BlockQ8_0, d), to.d);
  Lanes32 words[8];
  GatherWords(rows, offsetof(BlockQ8_0, q), words);
  for (Lanes32& lanes : words) {
    for (std::uint32_t& word : lanes) word ^= 0x80808080U;
  }
  std::memcpy(to.q, words, sizeof to.q);
}

void Pack(const Rows& rows, PanelQ4_0& to) {
  Gather(rows, offsetof(BlockQ4_0, d), to.d);
  PackHalves(rows, offsetof(BlockQ4_0, q), to.q);
}

void Pack(const Rows& rows, PanelQ4_1& to) {
  Gather(rows, offsetof(BlockQ4_1, d), to.d);
  Gather(rows, offsetof(BlockQ4_1, m), to.m);
  PackHalves(rows, offsetof(BlockQ4_1, q), to.q);
}

void Pack(const Rows& rows, PanelQ5_0& to) {
  Gather(rows, offsetof(BlockQ5_0, d), to.d);
  SpreadBits(rows, offsetof(BlockQ5_0, qh), to.qh);
  PackHalves(rows, offsetof(BlockQ5_0, q), to.q);
}

void Pack(const Rows& rows, PanelQ5_1& to) {
  Gather(rows, offsetof(BlockQ5_1, d), to.d);
  Gather(rows, offsetof(BlockQ5_1, m), to.m);
  SpreadBits(rows, offsetof(BlockQ5_1, qh), to.qh);
  PackHalves(rows, offsetof(BlockQ5_1, q), to.q);
}

void Pack(const Rows& rows, PanelIQ4_NL& to) {
  Gather(rows, offsetof(BlockIQ4_NL, d), to.d);
  PackHalves(rows, offsetof(BlockIQ4_NL, q), to.q);
}

void Pack(const Rows& rows, PanelMXFP4& to) {
  for (int r = 0; r < kPanelRows; ++r) to.e[r] = Load<std::uint8_t>(rows.at[r]);
  PackHalves(rows, offsetof(BlockMXFP4, q), to.q);
}

// The codes of two bits of a block of 256: 32 bytes hold four runs of 32 values.
void PackPairs(const Rows& rows, std::size_t offset, Codes2 (&to)[8]) {
  for (int half = 0; half < 2; ++half) {
    Lanes32 words[8];
    GatherWords(rows, offset + 32 * static_cast<std::size_t>(half), words);
    for (int j = 0; j < 4; ++j) MergePairs(words, 2 * j, to[4 * half + j]);
  }
}

// The codes of one bit of a block of 256.
void PackBits(const Rows& rows, std::size_t offset, Codes1 (&to)[8]) {
  Lanes32 words[8];
  GatherWords(rows, offset, words);
  for (int j = 0; j < 8; ++j) MergeBits(words, j, to[j]);
}

// The codes of four bits of Q4_K and Q5_K: 32 bytes hold two runs of 32 values.
void PackRunHalves(const Rows& rows, std::size_t offset, Codes4 (&to)[8]) {
  for (int group = 0; group < 4; ++group) {
    Lanes32 words[8];
    GatherWords(rows, offset + 32 * static_cast<std::size_t>(group), words);
    MergeHalves(words, 0, to[2 * group]);
    MergeHalves(words, 4, to[2 * group + 1]);
  }
}

void Pack(const Rows& rows, PanelQ2_K& to) {
  Gather(rows, offsetof(BlockQ2_K, d), to.d);
  Gather(rows, offsetof(BlockQ2_K, dmin), to.dmin);
  Lanes32 scales[4];
  GatherWords(rows, offsetof(BlockQ2_K, scales), scales);
  SpreadBytes(scales, 16, to.scales);
  PackPairs(rows, offsetof(BlockQ2_K, q), to.q);
}

// 12 bytes: low halves of runs j and j + 8 in byte j; bits 4 and 5 of run j in byte 8 + j % 4.
void PackScales(const Rows& rows, PanelQ3_K& to) {
  Lanes32 s[3];
  GatherWords(rows, offsetof(BlockQ3_K, scales), s);
  Lanes32 low[2];
  Lanes32 high;
  for (int r = 0; r < kPanelRows; ++r) {
    high[r] = 0;
    low[0][r] = low[1][r] = 0;
    for (int j = 0; j < 16; ++j) {
      const std::uint32_t half = s[j / 4 % 2][r] >> (j % 4 * 8 + j / 8 * 4) & 15;
      low[j / 8][r] |= half << (j % 8 * 4);
      high[r] |= (s[2][r] >> (j % 4 * 8 + j / 4 * 2) & 3) << (2 * j);
    }
  }
  SpreadBytes(low, 8, to.scales_l);
  std::memcpy(to.scales_h, high, sizeof high);
}

void Pack(const Rows& rows, PanelQ3_K& to) {
  Gather(rows, offsetof(BlockQ3_K, d), to.d);
  PackScales(rows, to);
  PackBits(rows, offsetof(BlockQ3_K, hmask), to.qh);
  PackPairs(rows, offsetof(BlockQ3_K, q), to.q);
}

// Four halves that lie in the low half of each byte, side by side.
std::uint32_t Condense(std::uint32_t halves) {
  const std::uint32_t pairs = (halves | halves >> 4) & 0x00FF00FFU;
  return (pairs | pairs >> 8) & 0xFFFFU;
}

// 12 bytes: pairs (scale, min) of 6 bits. Bytes 0 to 3 and 4 to 7 hold those of runs 0 to 3, bytes
// 8 to 11 the low halves of runs 4 to 7, whose bits 4 and 5 are bits 6 and 7 of the first 8 bytes.
template <class Panel>
void PackPairScales(const Rows& rows, std::size_t offset, Panel& to) {
  constexpr std::uint32_t kLow = 0x0F0F0F0FU;
  constexpr std::uint32_t kTwo = 0x03030303U;
  Lanes32 s[3];
  GatherWords(rows, offset, s);
  Lanes32 low[2];
  Lanes32 high;
  for (int r = 0; r < kPanelRows; ++r) {
    low[0][r] = (s[0][r] & kLow) | (s[1][r] & kLow) << 4;
    low[1][r] = s[2][r];
    const std::uint32_t first = (s[0][r] >> 4 & kTwo) | (s[1][r] >> 4 & kTwo) << 2;
    const std::uint32_t last = (s[0][r] >> 6 & kTwo) | (s[1][r] >> 6 & kTwo) << 2;
    high[r] = Condense(first) | Condense(last) << 16;
  }
  SpreadBytes(low, 8, to.scales_l);
  std::memcpy(to.scales_h, high, sizeof high);
}

void Pack(const Rows& rows, PanelQ4_K& to) {
  Gather(rows, offsetof(BlockQ4_K, d), to.d);
  Gather(rows, offsetof(BlockQ4_K, dmin), to.dmin);
  PackPairScales(rows, offsetof(BlockQ4_K, scales), to);
  PackRunHalves(rows, offsetof(BlockQ4_K, q), to.q);
}

void Pack(const Rows& rows, PanelQ5_K& to) {
  Gather(rows, offsetof(BlockQ5_K, d), to.d);
  Gather(rows, offsetof(BlockQ5_K, dmin), to.dmin);
  PackPairScales(rows, offsetof(BlockQ5_K, scales), to);
  PackBits(rows, offsetof(BlockQ5_K, qh), to.qh);
  PackRunHalves(rows, offsetof(BlockQ5_K, q), to.q);
}

// 64 bytes of ql hold four runs of 32 values: low halves of both 32 bytes, then high halves.
void Pack(const Rows& rows, PanelQ6_K& to) {
  Gather(rows, offsetof(BlockQ6_K, d), to.d);
  Lanes32 scales[4];
  GatherWords(rows, offsetof(BlockQ6_K, scales), scales);
  SpreadBytes(scales, 16, reinterpret_cast<std::uint8_t(*)[kPanelRows]>(to.scales));
  PackPairs(rows, offsetof(BlockQ6_K, qh), to.qh);
  for (int half = 0; half < 2; ++half) {
    Lanes32 words[16];
    GatherWords(rows, offsetof(BlockQ6_K, ql) + 64 * static_cast<std::size_t>(half), words);
    for (int j = 0; j < 4; ++j) {
      MergeHalves(words + j % 2 * 8, j / 2 * 4, to.q[4 * half + j]);
    }
  }
}

void Pack(const Rows& rows, PanelIQ4_XS& to) {
  Gather(rows, offsetof(BlockIQ4_XS, d), to.d);
  Gather(rows, offsetof(BlockIQ4_XS, scales_h), to.scales_h);
  Lanes32 scales[1];
  GatherWords(rows, offsetof(BlockIQ4_XS, scales_l), scales);
  SpreadBytes(scales, 4, to.scales_l);
  for (std::size_t j = 0; j < 8; ++j) {
    PackHalves(rows, offsetof(BlockIQ4_XS, q) + 16 * j, to.q[j]);
  }
}

template <class Block, class Panel>
void PackAll(const std::byte* blocks, std::int64_t rows, std::int64_t units, std::byte* panels) {
  static_assert(sizeof(Panel) == kPanelRows * sizeof(Block));
  static constexpr Block kZero{};
  for (std::int64_t row = 0; row < rows; row += kPanelRows) {
    for (std::int64_t unit = 0; unit < units; ++unit, panels += sizeof(Panel)) {
      Rows from;
      for (std::int64_t r = 0; r < kPanelRows; ++r) {
        const std::int64_t block = (row + r) * units + unit;
        from.at[r] = row + r < rows ? blocks + block * static_cast<std::int64_t>(sizeof(Block))
                                    : reinterpret_cast<const std::byte*>(&kZero);
      }
      Pack(from, *reinterpret_cast<Panel*>(panels));
    }
  }
}

}  // namespace

void PackPanels(DType type, const std::byte* blocks, std::int64_t rows, std::int64_t cols,
                std::byte* panels) {
  TANDEM_CHECK(IsBlockFormat(type) && cols % BlockElements(type) == 0);
  const std::int64_t units = cols / BlockElements(type);
  // clang-format off
  switch (type) {
    case DType::kQ8_0: return PackAll<BlockQ8_0, PanelQ8_0>(blocks, rows, units, panels);
    case DType::kQ4_0: return PackAll<BlockQ4_0, PanelQ4_0>(blocks, rows, units, panels);
    case DType::kQ4_1: return PackAll<BlockQ4_1, PanelQ4_1>(blocks, rows, units, panels);
    case DType::kQ5_0: return PackAll<BlockQ5_0, PanelQ5_0>(blocks, rows, units, panels);
    case DType::kQ5_1: return PackAll<BlockQ5_1, PanelQ5_1>(blocks, rows, units, panels);
    case DType::kIQ4_NL: return PackAll<BlockIQ4_NL, PanelIQ4_NL>(blocks, rows, units, panels);
    case DType::kMXFP4: return PackAll<BlockMXFP4, PanelMXFP4>(blocks, rows, units, panels);
    case DType::kQ2_K: return PackAll<BlockQ2_K, PanelQ2_K>(blocks, rows, units, panels);
    case DType::kQ3_K: return PackAll<BlockQ3_K, PanelQ3_K>(blocks, rows, units, panels);
    case DType::kQ4_K: return PackAll<BlockQ4_K, PanelQ4_K>(blocks, rows, units, panels);
    case DType::kQ5_K: return PackAll<BlockQ5_K, PanelQ5_K>(blocks, rows, units, panels);
    case DType::kQ6_K: return PackAll<BlockQ6_K, PanelQ6_K>(blocks, rows, units, panels);
    case DType::kIQ4_XS: return PackAll<BlockIQ4_XS, PanelIQ4_XS>(blocks, rows, units, panels);
    default: return;
  }
  // clang-format on
}

}  // namespace tandem::cpu
