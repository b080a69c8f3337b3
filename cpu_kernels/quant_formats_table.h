#pragma once

#include "cpu_kernels/quant_formats.h"

// The formats whose 4 bits are indexes into a table of 16 bytes, here with the offset added.

namespace tandem::cpu {
namespace {

constexpr std::uint8_t kIq4Codes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                        129, 141, 153, 166, 181, 197, 217, 241};
constexpr std::uint8_t kE2m1Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

constexpr bool TablesAgree() {
  for (int i = 0; i < 16; ++i) {
    if (kIq4Codes[i] - 128 != kIq4Values[i] || kE2m1Codes[i] - 12 != kE2m1Doubled[i]) return false;
  }
  return true;
}
static_assert(TablesAgree());

struct FormatIQ4_NL : BlockOf32<PanelIQ4_NL, false> {
  static constexpr int kMaxCode = 241;
  static constexpr int kOffset = 128;
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int) {
    return S::LookUp(S::Table(kIq4Codes), HalfCode<S, kRow, q>(p.q));
  }
};

struct FormatMXFP4 : BlockOf32<PanelMXFP4, false> {
  static constexpr int kMaxCode = 24;
  static constexpr int kOffset = 12;
  // 2^(e - 128): for e < 2 the subnormal (e + 1) 2^21 is the larger of the two integers.
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int, Shared<S>&, typename S::F* scales,
                                   typename S::F*) {
    const typename S::I e = S::Bytes(p.e + kRow);
    const typename S::I normal = S::Sub(S::template Shl<23>(e), S::Set1(1 << 23));
    const typename S::I subnormal = S::Add(S::template Shl<21>(e), S::Set1(1 << 21));
    scales[0] = S::BitsToF(S::Max(normal, subnormal));
  }
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int) {
    return S::LookUp(S::Table(kE2m1Codes), HalfCode<S, kRow, q>(p.q));
  }
};

struct FormatIQ4_XS {
  using Panel = PanelIQ4_XS;
  static constexpr int kGroups = 8;
  static constexpr int kRuns = 1;
  static constexpr int kMaxCode = 241;
  static constexpr int kOffset = 128;
  static constexpr bool kMin = false;
  static constexpr bool kHalves = false;
  template <class S>
  struct Shared {
    typename S::F d;
    typename S::I high;
  };
  template <class S, int kRow>
  static TANDEM_INLINE Shared<S> Load(const Panel& p) {
    return {S::Halves(p.d + kRow), S::Words(p.scales_h + kRow)};
  }
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int j, Shared<S>& shared, typename S::F* scales,
                                   typename S::F*) {
    const typename S::I both = S::Bytes(p.scales_l[j / 2] + kRow);
    const typename S::I low = S::And(Move<S, 4 * kOdd, 0>(both), S::Set1(15));
    const typename S::I six = S::OrAnd(low, S::template Shl<4>(shared.high), S::Set1(0x30));
    shared.high = S::template Shr<2>(shared.high);
    scales[0] = S::Mul(shared.d, S::ToF(S::Sub(six, S::Set1(32))));
  }
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int j) {
    return S::LookUp(S::Table(kIq4Codes), HalfCode<S, kRow, q>(p.q[j]));
  }
};

}  // namespace
}  // namespace tandem::cpu
