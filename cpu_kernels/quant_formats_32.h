#pragma once

#include "cpu_kernels/quant_formats.h"

// The formats with blocks of 32 values, those with tables apart.

namespace tandem::cpu {
namespace {

struct FormatQ8_0 : BlockOf32<PanelQ8_0, false> {
  static constexpr int kMaxCode = 255;
  static constexpr int kOffset = 128;
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const Panel& p, int) {
    return S::LoadI(p.q[q][kRow]);
  }
};

template <class PanelOf, bool kHasMin, int kOffsetOf>
struct FormatOf4Bits : BlockOf32<PanelOf, kHasMin> {
  static constexpr int kMaxCode = 15;
  static constexpr int kOffset = kOffsetOf;
  static constexpr bool kHalves = true;
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const PanelOf& p, int) {
    return HalfCode<S, kRow, q>(p.q);
  }
  static TANDEM_INLINE const Codes4& Halves(const PanelOf& p, int) { return p.q; }
};
using FormatQ4_0 = FormatOf4Bits<PanelQ4_0, false, 8>;
using FormatQ4_1 = FormatOf4Bits<PanelQ4_1, true, 0>;

template <class PanelOf, bool kHasMin, int kOffsetOf>
struct FormatOf5Bits : BlockOf32<PanelOf, kHasMin> {
  static constexpr int kMaxCode = 31;
  static constexpr int kOffset = kOffsetOf;
  template <class S, int kRow, int q>
  static TANDEM_INLINE typename S::I Code(const PanelOf& p, int) {
    return AddBit<S, kRow, q, 4>(HalfCode<S, kRow, q>(p.q), p.qh);
  }
};
using FormatQ5_0 = FormatOf5Bits<PanelQ5_0, false, 16>;
using FormatQ5_1 = FormatOf5Bits<PanelQ5_1, true, 0>;

}  // namespace
}  // namespace tandem::cpu
