#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/launch.h"

namespace tandem::cl {

// What a kernel is given where an argument is not there.
inline cl_mem Or(cl_mem buffer, cl_mem other) { return buffer == nullptr ? other : buffer; }

// As linear_t in linear_args.cl.
struct LinearWords {
  cl_long x_offset, x_stride, x_head_stride, x_aligned;
  cl_ulong w_offset, w_side;
  cl_long w_rows;
  cl_ulong w2_offset, w2_side;
  cl_long w2_rows;
  cl_long K, head_rows, row0, N, N2;
  cl_long y_offset, y_stride, y_head_stride, y2_offset, y2_stride;
  cl_long norm_offset, norm_out_offset, norm_out_stride;
  cl_long T, accumulate, swiglu, norm, ksplit;
  float eps, reserved;
};
static_assert(sizeof(LinearWords) == 29 * 8);

// Without heads.
inline LinearWords WordsOf(const LinearArgs& a) {
  LinearWords words = {};
  words.x_offset = a.x.offset;
  words.x_stride = a.x_stride;
  words.x_aligned = Aligned16(a.x.offset, a.x_stride) ? 1 : 0;
  words.w_offset = a.w.offset;
  words.w_side = a.w.scale_offset;
  words.w_rows = a.w.rows;
  words.w2_offset = a.w2.offset;
  words.w2_side = a.w2.scale_offset;
  words.w2_rows = a.w2.rows;
  words.K = a.w.cols;
  words.N = a.w.rows;
  words.N2 = a.w2.buffer == nullptr ? 0 : a.w2.rows;
  words.y_offset = a.y.offset;
  words.y_stride = a.y_stride;
  words.y2_offset = a.y2.offset;
  words.y2_stride = a.y2_stride;
  words.norm_offset = a.norm.w.offset;
  words.norm_out_offset = a.norm.out.offset;
  words.norm_out_stride = a.norm.out_stride;
  words.T = a.T;
  words.accumulate = a.accumulate ? 1 : 0;
  words.swiglu = a.swiglu ? 1 : 0;
  words.norm = a.norm.w.buffer == nullptr ? 0 : 1;
  words.eps = a.norm.eps;
  words.ksplit = 1;
  return words;
}

}  // namespace tandem::cl
