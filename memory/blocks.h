#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory/dtype.h"

// The block formats of GGUF, as they lie in files (little endian, no padding). A row of a matrix is
// a run of blocks; n is a code, d and m are scales. The sources of the layouts are ggml's structs.

namespace tandem {

// w = d n                                                                           8.5   bits
struct BlockQ8_0 {
  std::uint16_t d;
  std::int8_t q[32];
};
// w = d (n - 8); byte j holds value j in its low half and value j + 16 in its high half 4.5
struct BlockQ4_0 {
  std::uint16_t d;
  std::uint8_t q[16];
};
// w = d n + m                                                                       5
struct BlockQ4_1 {
  std::uint16_t d, m;
  std::uint8_t q[16];
};
// w = d (n - 16); bit i of qh is bit 4 of value i                                   5.5
struct BlockQ5_0 {
  std::uint16_t d;
  std::uint8_t qh[4];
  std::uint8_t q[16];
};
// w = d n + m                                                                       6
struct BlockQ5_1 {
  std::uint16_t d, m;
  std::uint8_t qh[4];
  std::uint8_t q[16];
};
// w = d kIq4Values[n]                                                               4.5
struct BlockIQ4_NL {
  std::uint16_t d;
  std::uint8_t q[16];
};
// w = 2^(e - 127) kE2m1Doubled[n] / 2                                               4.25
struct BlockMXFP4 {
  std::uint8_t e;
  std::uint8_t q[16];
};
// 16 runs of 16: w = d (scales & 15) n - dmin (scales >> 4)                         2.625
struct BlockQ2_K {
  std::uint8_t scales[16];
  std::uint8_t q[64];
  std::uint16_t d, dmin;
};
// 16 runs of 16: w = d (sc - 32) (n - 4), n of two bits in q and one in hmask       3.4375
struct BlockQ3_K {
  std::uint8_t hmask[32];
  std::uint8_t q[64];
  std::uint8_t scales[12];
  std::uint16_t d;
};
// 8 runs of 32: w = d sc n - dmin m                                                 4.5
struct BlockQ4_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12];
  std::uint8_t q[128];
};
// 8 runs of 32: as Q4_K with a fifth bit                                            5.5
struct BlockQ5_K {
  std::uint16_t d, dmin;
  std::uint8_t scales[12];
  std::uint8_t qh[32];
  std::uint8_t q[128];
};
// 16 runs of 16: w = d scale (n - 32)                                               6.5625
struct BlockQ6_K {
  std::uint8_t ql[128];
  std::uint8_t qh[64];
  std::int8_t scales[16];
  std::uint16_t d;
};
// 8 runs of 32: w = d (ls - 32) kIq4Values[n]                                       4.25
struct BlockIQ4_XS {
  std::uint16_t d;
  std::uint16_t scales_h;
  std::uint8_t scales_l[4];
  std::uint8_t q[128];
};

inline constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr std::int8_t kE2m1Doubled[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                 0, -1, -2, -3, -4, -6, -8, -12};

// In memory the CPU's matrices of block formats lie in panels of 16 rows (cpu_kernels/panel.h), the
// last one filled up: bytes of `rows` rows.
inline constexpr std::int64_t kPanelRows = 16;
inline std::uint64_t PackedBytes(DType type, std::int64_t rows, std::int64_t cols) {
  return DataBytes(type, (rows + kPanelRows - 1) / kPanelRows * kPanelRows * cols);
}

// out = the values of whole blocks of a block format, exactly as defined: products in f32 in the
// order that the formulas above show. out.size() is a multiple of BlockElements(type), and `blocks`
// holds DataBytes(type, out.size()) bytes at any alignment.
void DecodeBlocks(DType type, const std::byte* blocks, std::span<float> out);

}  // namespace tandem
