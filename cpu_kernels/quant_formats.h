#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/panel.h"

// What the block formats have in common for the kernels (quant_body.h). A format is a struct with
//   Panel          its unit (cpu_kernels/panel.h)
//   kGroups        groups of 32 columns in a unit
//   kRuns          scales that a group has: 1, or 2 for its halves of 16 columns
//   kMaxCode, kOffset, kMin     w = scale (code - kOffset), plus a min where kMin
//   Shared<S>      what the groups of a unit share, in vectors
//   Load<S, kRow>(unit)          Shared of the S::kLanes rows from kRow on
//   Scales<S, kRow, kOdd>(unit, j, shared, scales, mins)   of group j, exact products in f32;
//   called
//                                for every group in rising order, because Shared moves along
//   Code<S, kRow, q>(unit, j)    the codes of quad q of group j, as bytes
//   Halves(unit, j)              where kHalves: 4 bits without further ado

namespace tandem::cpu {
namespace {

// Bits that lie from kFrom on, moved to kTo on.
template <class S, int kFrom, int kTo>
TANDEM_INLINE typename S::I Move(typename S::I v) {
  if constexpr (kFrom > kTo) return S::template Shr<kFrom - kTo>(v);
  if constexpr (kFrom < kTo) return S::template Shl<kTo - kFrom>(v);
  return v;
}

template <class S, int kRow, int q>
TANDEM_INLINE typename S::I HalfCode(const Codes4& codes) {
  const typename S::I both = S::LoadI(codes[q % 4][kRow]);
  return S::And(Move<S, q / 4 * 4, 0>(both), S::Byte(15));
}

template <class S, int kRow, int q>
TANDEM_INLINE typename S::I PairCode(const Codes2& codes) {
  const typename S::I four = S::LoadI(codes[q / 4][kRow]);
  return S::And(Move<S, q % 4 * 2, 0>(four), S::Byte(3));
}

// `low` with bits from `codes` added from bit kTo on.
template <class S, int kRow, int q, int kTo>
TANDEM_INLINE typename S::I AddBit(typename S::I low, const Codes1& codes) {
  return S::OrAnd(low, Move<S, q, kTo>(S::LoadI(codes[kRow])), S::Byte(1 << kTo));
}
template <class S, int kRow, int q, int kTo>
TANDEM_INLINE typename S::I AddPair(typename S::I low, const Codes2& codes) {
  const typename S::I four = S::LoadI(codes[q / 4][kRow]);
  return S::OrAnd(low, Move<S, q % 4 * 2, kTo>(four), S::Byte(3 << kTo));
}

// Blocks of 32 values with a scale, and perhaps a min, in f16.
template <class PanelOf, bool kHasMin>
struct BlockOf32 {
  using Panel = PanelOf;
  static constexpr int kGroups = 1;
  static constexpr int kRuns = 1;
  static constexpr bool kMin = kHasMin;
  static constexpr bool kHalves = false;
  template <class S>
  struct Shared {};
  template <class S, int kRow>
  static TANDEM_INLINE Shared<S> Load(const Panel&) {
    return {};
  }
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int, Shared<S>&, typename S::F* scales,
                                   typename S::F* mins) {
    scales[0] = S::Halves(p.d + kRow);
    if constexpr (kHasMin) mins[0] = S::Halves(p.m + kRow);
  }
};

}  // namespace
}  // namespace tandem::cpu
