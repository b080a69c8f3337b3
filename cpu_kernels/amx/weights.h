#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/panel.h"
#include "memory/blocks.h"

// The block formats as vectors of codes with a scale and an addend for every run of columns:
// w = scale * code + add, code unsigned. Lanes are the 16 rows of a panel. Included by the files of
// this folder only; in an unnamed namespace, so that no symbol leaves an object file.

namespace tandem::cpu {
namespace {

struct ScaleAdd {
  __m512 scale, add;
};

TANDEM_INLINE __m512i LoadBytes(const void* p) { return _mm512_loadu_si512(p); }
TANDEM_INLINE __m512 HalfLanes(const Lanes16& p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
TANDEM_INLINE __m512i ByteLanes(const void* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
TANDEM_INLINE __m512i And(__m512i v, int bits) {
  return _mm512_and_si512(v, _mm512_set1_epi32(bits));
}
TANDEM_INLINE __m512i AndBytes(__m512i v, int bits) {
  return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(bits)));
}
TANDEM_INLINE __m512i ShiftRight(__m512i v, int bits) {
  return _mm512_srli_epi32(v, static_cast<unsigned>(bits));
}
TANDEM_INLINE __m512 ToF32(__m512i v) { return _mm512_cvtepi32_ps(v); }
TANDEM_INLINE __m512 Times(__m512 a, float b) { return _mm512_mul_ps(a, _mm512_set1_ps(b)); }
// A symmetric format's addend.
TANDEM_INLINE ScaleAdd Symmetric(__m512 scale, float offset) {
  return {scale, Times(scale, -offset)};
}

// Codes of quad v (0 ... 7) out of 32 columns, one byte each.
TANDEM_INLINE __m512i Nibbles(const Codes4& q, int v) {
  const __m512i both = LoadBytes(q[v % 4]);
  return AndBytes(v < 4 ? both : _mm512_srli_epi16(both, 4), 0x0F);
}
TANDEM_INLINE __m512i Twos(const Codes2& q, int v) {
  return AndBytes(_mm512_srli_epi16(LoadBytes(q[v / 4]), static_cast<unsigned>(v % 4 * 2)), 0x03);
}
// Bit v of every byte as bit `to` of the code.
TANDEM_INLINE __m512i WithBit(__m512i code, const Codes1& q, int v, int to) {
  const __mmask64 set =
      _mm512_test_epi8_mask(LoadBytes(q), _mm512_set1_epi8(static_cast<char>(1 << v)));
  return _mm512_mask_add_epi8(code, set, code, _mm512_set1_epi8(static_cast<char>(1 << to)));
}
// A copy of a table that is this folder's own (the original is one object for the whole program).
struct SignedTable {
  std::int8_t values[16];
  constexpr explicit SignedTable(const std::int8_t (&from)[16]) : values() {
    for (int i = 0; i < 16; ++i) values[i] = from[i];
  }
};
constexpr SignedTable kIq4(kIq4Values);
constexpr SignedTable kE2m1(kE2m1Doubled);

// The table's values, made unsigned by adding `offset`.
TANDEM_INLINE __m512i LookUp(const SignedTable& table, int offset, __m512i nibbles) {
  const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table.values));
  const __m128i moved = _mm_add_epi8(row, _mm_set1_epi8(static_cast<char>(offset)));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(moved), nibbles);
}

// Each format: Unit, its columns, the columns of a run that share a scale, bits of a code (8 where
// it needs them all), what a code lies above the signed value that it stands for (0 where the
// addend is a format's own minimum), its codes and its scales.

struct Q8_0 {
  using Unit = PanelQ8_0;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 128;
  static constexpr bool kWide = true, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) { return LoadBytes(u.q[quad]); }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    s[0] = Symmetric(HalfLanes(u.d), kOffset);
  }
};

struct Q4_0 {
  using Unit = PanelQ4_0;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 8;
  static constexpr bool kWide = false, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) { return Nibbles(u.q, quad); }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    s[0] = Symmetric(HalfLanes(u.d), kOffset);
  }
};

struct Q4_1 {
  using Unit = PanelQ4_1;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 0;
  static constexpr bool kWide = false, kHasMin = true;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) { return Nibbles(u.q, quad); }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    s[0] = {HalfLanes(u.d), HalfLanes(u.m)};
  }
};

struct Q5_0 {
  using Unit = PanelQ5_0;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 16;
  static constexpr bool kWide = false, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return WithBit(Nibbles(u.q, quad), u.qh, quad, 4);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    s[0] = Symmetric(HalfLanes(u.d), kOffset);
  }
};

struct Q5_1 {
  using Unit = PanelQ5_1;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 0;
  static constexpr bool kWide = false, kHasMin = true;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return WithBit(Nibbles(u.q, quad), u.qh, quad, 4);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    s[0] = {HalfLanes(u.d), HalfLanes(u.m)};
  }
};

struct IQ4_NL {
  using Unit = PanelIQ4_NL;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 128;
  static constexpr bool kWide = true, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return LookUp(kIq4, kOffset, Nibbles(u.q, quad));
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    s[0] = Symmetric(HalfLanes(u.d), kOffset);
  }
};

struct MXFP4 {
  using Unit = PanelMXFP4;
  static constexpr int kColumns = 32, kRun = 32, kOffset = 16;
  static constexpr bool kWide = false, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return LookUp(kE2m1, kOffset, Nibbles(u.q, quad));
  }
  // 2^(e - 128), e = 0 ... 255, as 1 with an exponent added: right for subnormals too.
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    const __m512 exponent = ToF32(_mm512_sub_epi32(ByteLanes(u.e), _mm512_set1_epi32(128)));
    s[0] = Symmetric(_mm512_scalef_ps(_mm512_set1_ps(1), exponent), kOffset);
  }
};

struct Q2_K {
  using Unit = PanelQ2_K;
  static constexpr int kColumns = 256, kRun = 16, kOffset = 0;
  static constexpr bool kWide = false, kHasMin = true;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return Twos(u.q[quad / 8], quad % 8);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    const __m512 d = HalfLanes(u.d);
    const __m512 dmin = Times(HalfLanes(u.dmin), -1);
    for (int j = 0; j < 16; ++j) {
      const __m512i both = ByteLanes(u.scales[j]);
      s[j] = {_mm512_mul_ps(d, ToF32(And(both, 15))),
              _mm512_mul_ps(dmin, ToF32(ShiftRight(both, 4)))};
    }
  }
};

struct Q3_K {
  using Unit = PanelQ3_K;
  static constexpr int kColumns = 256, kRun = 16, kOffset = 4;
  static constexpr bool kWide = false, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return WithBit(Twos(u.q[quad / 8], quad % 8), u.qh[quad / 8], quad % 8, 2);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    const __m512 d = HalfLanes(u.d);
    const __m512i high = LoadBytes(u.scales_h);
    for (int j = 0; j < 16; ++j) {
      const __m512i low = And(ShiftRight(ByteLanes(u.scales_l[j / 2]), j % 2 * 4), 15);
      const __m512i top = _mm512_slli_epi32(And(ShiftRight(high, 2 * j), 3), 4);
      const __m512i scale = _mm512_sub_epi32(_mm512_or_si512(low, top), _mm512_set1_epi32(32));
      s[j] = Symmetric(_mm512_mul_ps(d, ToF32(scale)), kOffset);
    }
  }
};

// Q4_K and Q5_K store scales and minima alike.
template <class Unit>
TANDEM_INLINE void ScalesWithMinima(const Unit& u, ScaleAdd* s) {
  const __m512 d = HalfLanes(u.d);
  const __m512 dmin = Times(HalfLanes(u.dmin), -1);
  const __m512i high = LoadBytes(u.scales_h);
  for (int j = 0; j < 8; ++j) {
    const __m512i low = ByteLanes(u.scales_l[j]);
    const __m512i top = ShiftRight(high, 4 * j);
    const __m512i scale = _mm512_or_si512(And(low, 15), _mm512_slli_epi32(And(top, 3), 4));
    const __m512i min = _mm512_or_si512(ShiftRight(low, 4), And(_mm512_slli_epi32(top, 2), 0x30));
    s[j] = {_mm512_mul_ps(d, ToF32(scale)), _mm512_mul_ps(dmin, ToF32(min))};
  }
}

struct Q4_K {
  using Unit = PanelQ4_K;
  static constexpr int kColumns = 256, kRun = 32, kOffset = 0;
  static constexpr bool kWide = false, kHasMin = true;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return Nibbles(u.q[quad / 8], quad % 8);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) { ScalesWithMinima(u, s); }
};

struct Q5_K {
  using Unit = PanelQ5_K;
  static constexpr int kColumns = 256, kRun = 32, kOffset = 0;
  static constexpr bool kWide = false, kHasMin = true;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return WithBit(Nibbles(u.q[quad / 8], quad % 8), u.qh[quad / 8], quad % 8, 4);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) { ScalesWithMinima(u, s); }
};

struct Q6_K {
  using Unit = PanelQ6_K;
  static constexpr int kColumns = 256, kRun = 16, kOffset = 32;
  static constexpr bool kWide = false, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    const __m512i top = _mm512_slli_epi16(Twos(u.qh[quad / 8], quad % 8), 4);
    return _mm512_or_si512(Nibbles(u.q[quad / 8], quad % 8), top);
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    const __m512 d = HalfLanes(u.d);
    for (int j = 0; j < 16; ++j) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(u.scales[j]));
      s[j] = Symmetric(_mm512_mul_ps(d, ToF32(_mm512_cvtepi8_epi32(bytes))), kOffset);
    }
  }
};

struct IQ4_XS {
  using Unit = PanelIQ4_XS;
  static constexpr int kColumns = 256, kRun = 32, kOffset = 128;
  static constexpr bool kWide = true, kHasMin = false;
  static TANDEM_INLINE __m512i Codes(const Unit& u, int quad) {
    return LookUp(kIq4, kOffset, Nibbles(u.q[quad / 8], quad % 8));
  }
  static TANDEM_INLINE void Scales(const Unit& u, ScaleAdd* s) {
    const __m512 d = HalfLanes(u.d);
    const __m512i high =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(u.scales_h)));
    for (int j = 0; j < 8; ++j) {
      const __m512i low = And(ShiftRight(ByteLanes(u.scales_l[j / 2]), j % 2 * 4), 15);
      const __m512i top = _mm512_slli_epi32(And(ShiftRight(high, 2 * j), 3), 4);
      const __m512i scale = _mm512_sub_epi32(_mm512_or_si512(low, top), _mm512_set1_epi32(32));
      s[j] = Symmetric(_mm512_mul_ps(d, ToF32(scale)), kOffset);
    }
  }
};

}  // namespace
}  // namespace tandem::cpu
