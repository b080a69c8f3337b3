#include "cl_kernels/argmax.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {

void LaunchArgmax(Programs& programs, const ArgmaxArgs& a) {
  if (a.rows <= 0 || a.V <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "argmax_f32");
  Arguments(kernel).Set(a.logits, static_cast<cl_int>(a.V), a.best);
  Enqueue(programs, kernel, {kArgmaxParts, a.rows, 1}, programs.traits().group);
}

}  // namespace tandem::cl
