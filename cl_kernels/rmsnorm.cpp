#include "cl_kernels/rmsnorm.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {

void LaunchRmsNorm(Programs& programs, const RmsNormArgs& a) {
  if (a.T <= 0 || a.D <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "rmsnorm_f32");
  const bool aligned = Aligned16(a.x.offset, a.x_stride) && Aligned16(a.y.offset, a.y_stride) &&
                       Aligned16(a.w.offset, 0);
  Arguments(kernel).Set(a.x, a.x_stride, a.w, a.y, a.y_stride, static_cast<cl_int>(a.D), a.eps,
                        cl_int{aligned});
  Enqueue(programs, kernel, {1, a.T, 1}, programs.traits().group);
}

}  // namespace tandem::cl
