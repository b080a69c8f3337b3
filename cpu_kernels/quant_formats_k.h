#pragma once

#include "cpu_kernels/quant_formats.h"

// The K-quants: blocks of 256 values.

namespace tandem::cpu {
namespace {

struct BlockOf256 {
  static constexpr int kGroups = 8;
  static constexpr bool kHalves = false;
  template <class S>
  struct WithMins {
    typename S::F d, dmin;  // dmin negated
    typename S::I high;
  };
  // The minus goes to f32: f16 is widened exactly.
  template <class S>
  static TANDEM_INLINE typename S::F Negated(typename S::F v) {
    return S::Mul(v, S::SetF(-1.0F));
  }
};

// Runs of 32: scales and mins of 6 bits, the low halves of both in one byte.
template <class PanelOf>
struct PairScales : BlockOf256 {
  using Panel = PanelOf;
  static constexpr int kRuns = 1;
  static constexpr int kOffset = 0;
  static constexpr bool kMin = true;
  template <class S>
  using Shared = WithMins<S>;
  template <class S, int kRow>
  static TANDEM_INLINE Shared<S> Load(const Panel& p) {
    return {S::Halves(p.d + kRow), Negated<S>(S::Halves(p.dmin + kRow)),
            S::LoadI(p.scales_h + kRow)};
  }
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int j, Shared<S>& shared, typename S::F* scales,
                                   typename S::F* mins) {
    const typename S::I both = S::Bytes(p.scales_l[j] + kRow);
    const typename S::I high = S::Set1(0x30);
    const typename S::I scale =
        S::OrAnd(S::And(both, S::Set1(15)), S::template Shl<4>(shared.high), high);
    const typename S::I min =
        S::OrAnd(S::template Shr<4>(both), S::template Shl<2>(shared.high), high);
    shared.high = S::template Shr<4>(shared.high);
    scales[0] = S::Mul(shared.d, S::ToF(scale));
    mins[0] = S::Mul(shared.dmin, S::ToF(min));
  }
};

struct FormatQ4_K : PairScales<PanelQ4_K> {
  static constexpr int kMaxCode = 15;
  static constexpr bool kHalves = true;
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int j) {
    return HalfCode<S, kRow, q>(p.q[j]);
  }
  static TANDEM_INLINE const Codes4& Halves(const Panel& p, int j) { return p.q[j]; }
};

struct FormatQ5_K : PairScales<PanelQ5_K> {
  static constexpr int kMaxCode = 31;
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int j) {
    return AddBit<S, kRow, q, 4>(HalfCode<S, kRow, q>(p.q[j]), p.qh[j]);
  }
};

struct FormatQ2_K : BlockOf256 {
  using Panel = PanelQ2_K;
  static constexpr int kRuns = 2;
  static constexpr int kMaxCode = 3;
  static constexpr int kOffset = 0;
  static constexpr bool kMin = true;
  template <class S>
  struct Shared {
    typename S::F d, dmin;
  };
  template <class S, int kRow>
  static TANDEM_INLINE Shared<S> Load(const Panel& p) {
    return {S::Halves(p.d + kRow), Negated<S>(S::Halves(p.dmin + kRow))};
  }
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int j, Shared<S>& shared, typename S::F* scales,
                                   typename S::F* mins) {
#pragma GCC unroll 2
    for (int run = 0; run < 2; ++run) {
      const typename S::I both = S::Bytes(p.scales[2 * j + run] + kRow);
      scales[run] = S::Mul(shared.d, S::ToF(S::And(both, S::Set1(15))));
      mins[run] = S::Mul(shared.dmin, S::ToF(S::template Shr<4>(both)));
    }
  }
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int j) {
    return PairCode<S, kRow, q>(p.q[j]);
  }
};

struct FormatQ3_K : BlockOf256 {
  using Panel = PanelQ3_K;
  static constexpr int kRuns = 2;
  static constexpr int kMaxCode = 7;
  static constexpr int kOffset = 4;
  static constexpr bool kMin = false;
  template <class S>
  struct Shared {
    typename S::F d;
    typename S::I high;
  };
  template <class S, int kRow>
  static TANDEM_INLINE Shared<S> Load(const Panel& p) {
    return {S::Halves(p.d + kRow), S::LoadI(p.scales_h + kRow)};
  }
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int j, Shared<S>& shared, typename S::F* scales,
                                   typename S::F*) {
    const typename S::I both = S::Bytes(p.scales_l[j] + kRow);
    const typename S::I high = S::Set1(0x30);
    const typename S::I first =
        S::OrAnd(S::And(both, S::Set1(15)), S::template Shl<4>(shared.high), high);
    const typename S::I second =
        S::OrAnd(S::template Shr<4>(both), S::template Shl<2>(shared.high), high);
    shared.high = S::template Shr<4>(shared.high);
    scales[0] = S::Mul(shared.d, S::ToF(S::Sub(first, S::Set1(32))));
    scales[1] = S::Mul(shared.d, S::ToF(S::Sub(second, S::Set1(32))));
  }
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int j) {
    return AddBit<S, kRow, q, 2>(PairCode<S, kRow, q>(p.q[j]), p.qh[j]);
  }
};

struct FormatQ6_K : BlockOf256 {
  using Panel = PanelQ6_K;
  static constexpr int kRuns = 2;
  static constexpr int kMaxCode = 63;
  static constexpr int kOffset = 32;
  static constexpr bool kMin = false;
  template <class S>
  struct Shared {
    typename S::F d;
  };
  template <class S, int kRow>
  static TANDEM_INLINE Shared<S> Load(const Panel& p) {
    return {S::Halves(p.d + kRow)};
  }
  template <class S, int kRow, int kOdd>
  static TANDEM_INLINE void Scales(const Panel& p, int j, Shared<S>& shared, typename S::F* scales,
                                   typename S::F*) {
    scales[0] = S::Mul(shared.d, S::ToF(S::SignedBytes(p.scales[2 * j] + kRow)));
    scales[1] = S::Mul(shared.d, S::ToF(S::SignedBytes(p.scales[2 * j + 1] + kRow)));
  }
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int j) {
    return AddPair<S, kRow, q, 4>(HalfCode<S, kRow, q>(p.q[j]), p.qh[j]);
  }
};

}  // namespace
}  // namespace tandem::cpu
