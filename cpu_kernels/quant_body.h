#pragma once

#include <cstdint>

#include "cpu_kernels/linear.h"
#include "cpu_kernels/quant_exact_body.h"
#include "cpu_kernels/quant_few_body.h"
#include "cpu_kernels/quant_many_body.h"

// The one body of the vectorised kernels of block formats, compiled by each ISA folder with its own
// types:
//   S : a vector of 512 or 256 bits (quant_simd512.h, quant_simd256.h) with
//       Quad, four codes of x for all lanes, and Dot<max code, quads>, the integer sums of a run
//   W : a block format (quant_formats.h)
// Everything sits in an unnamed namespace, so no symbol leaves the object file.
//
// Batch invariance: the sums of a group of 32 columns are exact integers. Every y[t, n] has one f32
// accumulator, which takes the groups in rising order; a group adds
//   x_scale (sum_0 scale_0 [+ sum_1 scale_1])   and then   x_scale x_sum min
// each rounded in the same place in all forms.

namespace tandem::cpu {
namespace {

template <class S, class W>
void QuantLinear(const LinearArgs& a) {
  if (a.T <= 0 || a.n1 <= a.n0) return;
  if (a.x_type == DType::kF32) return Exact<S, W>(a);
  a.T <= kFewMaxT<S, W> ? Few<S, W>(a) : Many<S, W>(a);
}

}  // namespace
}  // namespace tandem::cpu
