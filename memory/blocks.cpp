#include "memory/blocks.h"

#include <bit>
#include <cstring>

#include "memory/error.h"

// One function a format. A K-quant lays its codes out so that one load of 32 bytes serves 32
// neighbouring values in every plane of bits; the loops over `i` below go along such a load.

namespace tandem {
namespace {

float Low(std::uint8_t byte) { return static_cast<float>(byte & 15); }
float High(std::uint8_t byte) { return static_cast<float>(byte >> 4); }

void Decode(const BlockQ8_0& b, float* out) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(b.q[i]);
}

void Decode(const BlockQ4_0& b, float* out) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * (Low(b.q[i]) - 8);
    out[i + 16] = d * (High(b.q[i]) - 8);
  }
}

void Decode(const BlockQ4_1& b, float* out) {
  const float d = F16ToF32(b.d);
  const float m = F16ToF32(b.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * Low(b.q[i]) + m;
    out[i + 16] = d * High(b.q[i]) + m;
  }
}

// Bit 4 of value i of a block of 32, worth 16.
float Fifth(const std::uint8_t* qh, int i) {
  return static_cast<float>((qh[i / 8] >> (i % 8) & 1) << 4);
}

void Decode(const BlockQ5_0& b, float* out) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * (Low(b.q[i]) + Fifth(b.qh, i) - 16);
    out[i + 16] = d * (High(b.q[i]) + Fifth(b.qh, i + 16) - 16);
  }
}

void Decode(const BlockQ5_1& b, float* out) {
  const float d = F16ToF32(b.d);
  const float m = F16ToF32(b.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * (Low(b.q[i]) + Fifth(b.qh, i)) + m;
    out[i + 16] = d * (High(b.q[i]) + Fifth(b.qh, i + 16)) + m;
  }
}

// 32 values that are entries of a table: low halves of 16 bytes, then high halves.
void DecodeEntries(const std::int8_t* table, float scale, const std::uint8_t* q, float* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(table[q[i] & 15]);
    out[i + 16] = scale * static_cast<float>(table[q[i] >> 4]);
  }
}

void Decode(const BlockIQ4_NL& b, float* out) {
  DecodeEntries(kIq4Values, F16ToF32(b.d), b.q, out);
}

void Decode(const BlockMXFP4& b, float* out) {
  // Half of 2^(e - 127), which is below the smallest normal number for e < 2.
  const std::uint32_t bits = b.e < 2 ? 0x00200000U << b.e : (b.e - 1U) << 23;
  DecodeEntries(kE2m1Doubled, std::bit_cast<float>(bits), b.q, out);
}

void Decode(const BlockQ2_K& b, float* out) {
  const float d = F16ToF32(b.d);
  const float dmin = F16ToF32(b.dmin);
  for (int run = 0; run < 16; ++run) {
    const float scale = d * Low(b.scales[run]);
    const float min = dmin * High(b.scales[run]);
    const std::uint8_t* q = b.q + run / 8 * 32 + run % 2 * 16;
    const int shift = run / 2 % 4 * 2;
    for (int i = 0; i < 16; ++i) {
      out[run * 16 + i] = scale * static_cast<float>(q[i] >> shift & 3) - min;
    }
  }
}

void Decode(const BlockQ3_K& b, float* out) {
  const float d = F16ToF32(b.d);
  for (int run = 0; run < 16; ++run) {
    const int low = b.scales[run % 8] >> (run / 8 * 4) & 15;
    const int high = b.scales[8 + run % 4] >> (run / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const std::uint8_t* q = b.q + run / 8 * 32 + run % 2 * 16;
    const std::uint8_t* h = b.hmask + run % 2 * 16;
    const int shift = run / 2 % 4 * 2;
    for (int i = 0; i < 16; ++i) {
      const int n = (q[i] >> shift & 3) | (h[i] >> (run / 2) & 1) << 2;
      out[run * 16 + i] = scale * static_cast<float>(n - 4);
    }
  }
}

struct ScaleMin {
  int scale;
  int min;
};

// The 6-bit pair of run j of Q4_K and Q5_K: runs 4 to 7 keep their high bits above those of 0 to 3.
ScaleMin PairOf(const std::uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4};
}

void Decode(const BlockQ4_K& b, float* out) {
  const float d = F16ToF32(b.d);
  const float dmin = F16ToF32(b.dmin);
  for (int run = 0; run < 8; ++run) {
    const ScaleMin pair = PairOf(b.scales, run);
    const float scale = d * static_cast<float>(pair.scale);
    const float min = dmin * static_cast<float>(pair.min);
    const std::uint8_t* q = b.q + run / 2 * 32;
    const int shift = run % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[run * 32 + i] = scale * static_cast<float>(q[i] >> shift & 15) - min;
    }
  }
}

void Decode(const BlockQ5_K& b, float* out) {
  const float d = F16ToF32(b.d);
  const float dmin = F16ToF32(b.dmin);
  for (int run = 0; run < 8; ++run) {
    const ScaleMin pair = PairOf(b.scales, run);
    const float scale = d * static_cast<float>(pair.scale);
    const float min = dmin * static_cast<float>(pair.min);
    const std::uint8_t* q = b.q + run / 2 * 32;
    const int shift = run % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int n = (q[i] >> shift & 15) | (b.qh[i] >> run & 1) << 4;
      out[run * 32 + i] = scale * static_cast<float>(n) - min;
    }
  }
}

void Decode(const BlockQ6_K& b, float* out) {
  const float d = F16ToF32(b.d);
  for (int run = 0; run < 16; ++run) {
    const int group = run / 2 % 4;  // which 32 of a half block
    const std::uint8_t* ql = b.ql + run / 8 * 64 + group % 2 * 32 + run % 2 * 16;
    const std::uint8_t* qh = b.qh + run / 8 * 32 + run % 2 * 16;
    const float scale = d * static_cast<float>(b.scales[run]);
    for (int i = 0; i < 16; ++i) {
      const int n = (ql[i] >> (group / 2 * 4) & 15) | (qh[i] >> (group * 2) & 3) << 4;
      out[run * 16 + i] = scale * static_cast<float>(n - 32);
    }
  }
}

void Decode(const BlockIQ4_XS& b, float* out) {
  const float d = F16ToF32(b.d);
  for (int run = 0; run < 8; ++run) {
    const int low = b.scales_l[run / 2] >> (run % 2 * 4) & 15;
    const int high = b.scales_h >> (2 * run) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    DecodeEntries(kIq4Values, scale, b.q + run * 16, out + run * 32);
  }
}

template <class Block>
void DecodeAll(DType type, const std::byte* bytes, std::span<float> out) {
  static_assert(std::endian::native == std::endian::little);
  TANDEM_CHECK(sizeof(Block) == BlockBytes(type));
  const auto elements = static_cast<std::size_t>(BlockElements(type));
  TANDEM_CHECK(out.size() % elements == 0);
  for (std::size_t at = 0; at < out.size(); at += elements, bytes += sizeof(Block)) {
    Block block;  // a copy, since files align blocks to nothing
    std::memcpy(&block, bytes, sizeof(Block));
    Decode(block, out.data() + at);
  }
}

}  // namespace

void DecodeBlocks(DType type, const std::byte* blocks, std::span<float> out) {
  // clang-format off
  switch (type) {
    case DType::kQ8_0: return DecodeAll<BlockQ8_0>(type, blocks, out);
    case DType::kQ4_0: return DecodeAll<BlockQ4_0>(type, blocks, out);
    case DType::kQ4_1: return DecodeAll<BlockQ4_1>(type, blocks, out);
    case DType::kQ5_0: return DecodeAll<BlockQ5_0>(type, blocks, out);
    case DType::kQ5_1: return DecodeAll<BlockQ5_1>(type, blocks, out);
    case DType::kIQ4_NL: return DecodeAll<BlockIQ4_NL>(type, blocks, out);
    case DType::kMXFP4: return DecodeAll<BlockMXFP4>(type, blocks, out);
    case DType::kQ2_K: return DecodeAll<BlockQ2_K>(type, blocks, out);
    case DType::kQ3_K: return DecodeAll<BlockQ3_K>(type, blocks, out);
    case DType::kQ4_K: return DecodeAll<BlockQ4_K>(type, blocks, out);
    case DType::kQ5_K: return DecodeAll<BlockQ5_K>(type, blocks, out);
    case DType::kQ6_K: return DecodeAll<BlockQ6_K>(type, blocks, out);
    case DType::kIQ4_XS: return DecodeAll<BlockIQ4_XS>(type, blocks, out);
    default: break;
  }
  // clang-format on
  TANDEM_CHECK(IsBlockFormat(type));
}

}  // namespace tandem
