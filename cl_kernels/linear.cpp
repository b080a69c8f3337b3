#include "cl_kernels/linear.h"

#include "cl_kernels/launch.h"
#include "cl_kernels/matmul.h"

namespace tandem::cl {
namespace {

constexpr MatmulForms kLinearForms{"linear_few_1", "linear_few_1_narrow", "linear_few",
                                   "linear_few_narrow", "linear_many"};

void LaunchStraight(Programs& programs, const HeadLinearArgs& a, bool accumulate) {
  if (a.T <= 0 || a.N <= 0 || a.heads <= 0) return;
  const MatmulLaunch launch = ChooseMatmul(kLinearForms, programs.traits(), a.T, a.N, a.heads);
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.w.dtype, launch.kernel);
  const bool aligned = Aligned16(a.x.offset, a.x_row_stride) && a.x_head_stride % 4 == 0;
  Arguments(kernel).Set(a.x, a.x_row_stride, a.x_head_stride, cl_int{aligned}, a.w.buffer,
                        a.w.offset, a.w.scale_offset, a.w.cols, a.w.rows, a.head_rows, a.row0, a.N,
                        a.y, a.y_row_stride, a.y_head_stride, a.T, cl_int{accumulate});
  Enqueue(programs, kernel, launch.groups, launch.group_size);
}

void LaunchTransposed(Programs& programs, const HeadLinearArgs& a) {
  if (a.T <= 0 || a.w.cols <= 0 || a.heads <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kMatmul, a.w.dtype, "head_linear_transposed");
  Arguments(kernel).Set(a.x, a.x_row_stride, a.x_head_stride, a.w.buffer, a.w.offset,
                        a.w.scale_offset, a.w.cols, a.w.rows, a.head_rows, a.row0, a.N, a.y,
                        a.y_row_stride, a.y_head_stride, a.T);
  Enqueue(programs, kernel,
          {CeilDiv(a.w.cols, 8 * programs.traits().team), CeilDiv(a.T, programs.traits().max_rows),
           a.heads},
          programs.traits().group_size());
}

}  // namespace

void LaunchLinear(Programs& programs, const LinearArgs& a) {
  HeadLinearArgs one_head;
  one_head.x = a.x;
  one_head.x_row_stride = a.x_stride;
  one_head.w = a.w;
  one_head.N = a.w.rows;
  one_head.y = a.y;
  one_head.y_row_stride = a.y_stride;
  one_head.T = a.T;
  one_head.heads = 1;
  LaunchStraight(programs, one_head, a.accumulate);
}

void LaunchHeadLinear(Programs& programs, const HeadLinearArgs& a) {
  if (a.transposed) {
    LaunchTransposed(programs, a);
  } else {
    LaunchStraight(programs, a, false);
  }
}

}  // namespace tandem::cl
