#pragma once

#include <cstdint>

#include "cpu_kernels/linear.h"
#include "cpu_kernels/linear_direct_body.h"
#include "cpu_kernels/linear_tiled_body.h"

// The one body of the vectorised linear kernels, compiled by each ISA folder with its own types:
//   S : F, the accumulators of kLanes f32, with Load, Store, Fma, Set1, Zero, Sum
//       V, a vector of kWidth elements of type Element, as DotV multiplies them into an F
//       Operand, one or two V with kStep elements, with Dot, Scale and StoreOperand
//       the blocking (kDirectRows, kDirectCols, kMicroRows, kMicroCols, kTileK, ...)
//   X : the elements of x, W : those of w; Decode(p) turns kStep of them into an Operand
// Everything sits in an unnamed namespace, so no symbol leaves the object file.
//
// Batch invariance: every y[t, n] has exactly one vector accumulator, which takes k in rising
// order, one V at a time (K padded with zeros to kStep), and one fixed tree of additions at the
// end. An FP8 weight is multiplied by its scale and rounded to f32 before it meets x; where V
// cannot hold that product (kScalesWeights false), the accumulator starts anew every 128 columns,
// and its sums, times the scale, are added to a second one. The forms differ only in how many
// accumulators are in flight.

namespace tandem::cpu {
namespace {

template <class S, class X, class W>
void LinearOf(const LinearArgs& a) {
  if (a.T <= 0 || a.n1 <= a.n0) return;
  a.T <= S::kDirectMaxT ? Direct<S, X, W>(a) : Tiled<S, X, W>(a);
}

}  // namespace
}  // namespace tandem::cpu
