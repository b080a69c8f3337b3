#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/blocks.h"

// How matrices in block formats lie in memory for the CPU: panels of 16 rows, one layout for every
// instruction set and for one row of x as for many. A panel is a run of units, one for every 32 or
// 256 columns (the format's block), of exactly the bytes that its 16 blocks take in a file; panel p
// holds rows [16 p, 16 p + 16). What the last panel lacks are rows of zero bytes.
//
// Codes of 8 bits lie as bytes [quad][row][4]: a quad is four neighbouring columns, so 64 bytes are
// one quad of 16 rows, as vpdpbusd and an AMX tile of B want them. Narrower codes are split:
//   4 bits : per 32 columns [4][row][4], byte i of vector v holds the code of quad v in its low
//   half
//            and that of quad v + 4 in its high half
//   2 bits : per 32 columns [2][row][4], vector v holds quad 4 v + b in bits 2b, 2b + 1, b = 0..3
//   1 bit  : per 32 columns [row][4], bit b belongs to quad b, b = 0..7
// All codes are unsigned here; w is as in memory/blocks.h with n = code - offset.

namespace tandem::cpu {

using Lanes16 = std::uint16_t[kPanelRows];  // one f16 or word a row
using Lanes32 = std::uint32_t[kPanelRows];
using Codes4 = std::uint8_t[4][kPanelRows][4];  // 32 columns of 4 bits
using Codes2 = std::uint8_t[2][kPanelRows][4];
using Codes1 = std::uint8_t[kPanelRows][4];

struct PanelQ8_0 {  // code = q + 128
  Lanes16 d;
  std::uint8_t q[8][kPanelRows][4];
};
struct PanelQ4_0 {  // offset 8
  Lanes16 d;
  Codes4 q;
};
struct PanelQ4_1 {
  Lanes16 d, m;
  Codes4 q;
};
struct PanelQ5_0 {  // offset 16
  Lanes16 d;
  Codes1 qh;
  Codes4 q;
};
struct PanelQ5_1 {
  Lanes16 d, m;
  Codes1 qh;
  Codes4 q;
};
struct PanelIQ4_NL {  // codes are indexes of kIq4Values
  Lanes16 d;
  Codes4 q;
};
struct PanelMXFP4 {  // codes are indexes of kE2m1Doubled
  std::uint8_t e[kPanelRows];
  Codes4 q;
};
struct PanelQ2_K {
  Lanes16 d, dmin;
  std::uint8_t scales[16][kPanelRows];  // of run j: scale in the low half, min in the high half
  Codes2 q[8];
};
struct PanelQ3_K {  // offset 4; bit 2 of a code comes from qh
  Lanes16 d;
  std::uint8_t scales_l[8][kPanelRows];  // low halves: run 2 j in the low half, 2 j + 1 in the high
  Lanes32 scales_h;                      // bits 2j, 2j + 1: bits 4 and 5 of run j's scale
  Codes1 qh[8];
  Codes2 q[8];
};
struct PanelQ4_K {
  Lanes16 d, dmin;
  std::uint8_t scales_l[8][kPanelRows];  // of run j: sc & 15 in the low half, m & 15 in the high
  Lanes32 scales_h;                      // bits 4j, 4j + 1: sc >> 4; bits 4j + 2, 4j + 3: m >> 4
  Codes4 q[8];
};
struct PanelQ5_K {
  Lanes16 d, dmin;
  std::uint8_t scales_l[8][kPanelRows];  // as PanelQ4_K
  Lanes32 scales_h;
  Codes1 qh[8];
  Codes4 q[8];
};
struct PanelQ6_K {  // offset 32; bits 4 and 5 of a code come from qh
  Lanes16 d;
  std::int8_t scales[16][kPanelRows];
  Codes2 qh[8];
  Codes4 q[8];
};
struct PanelIQ4_XS {
  Lanes16 d;
  Lanes16 scales_h;                      // as in the block
  std::uint8_t scales_l[4][kPanelRows];  // as in the block
  Codes4 q[8];
};

// Packs `rows` rows of whole blocks, as they lie in a file one after another, into
// PackedBytes(type, rows, cols) bytes at `panels` (64-byte aligned). Single-threaded; a caller
// packs any whole panels at a time.
void PackPanels(DType type, const std::byte* blocks, std::int64_t rows, std::int64_t cols,
                std::byte* panels);

// out[r * cols + c] = the value of row r and column c of one panel, as DecodeBlocks gives it.
// For tests and for the reference kernels.
void DecodePanel(DType type, const std::byte* panel, std::int64_t cols, float* out);

}  // namespace tandem::cpu
