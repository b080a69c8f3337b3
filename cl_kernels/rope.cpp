#include "cl_kernels/rope.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {

void LaunchRope(Programs& programs, const RopeArgs& a) {
  if (a.T <= 0 || a.heads <= 0 || a.d < 2) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "rope_f32");
  Arguments(kernel).Set(a.x, a.row_stride, a.head_stride, a.heads, a.d, a.cos_sin,
                        cl_int{a.interleaved});
  Enqueue(programs, kernel, {CeilDiv(a.heads * (a.d / 2), 64), a.T, 1}, 64);
}

}  // namespace tandem::cl
