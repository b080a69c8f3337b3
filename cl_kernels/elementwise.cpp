#include "cl_kernels/elementwise.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {

void LaunchSwiglu(Programs& programs, const SwigluArgs& a) {
  if (a.T <= 0 || a.F <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "swiglu_f32");
  Arguments(kernel).Set(a.gate, a.gate_stride, a.up, a.up_stride, a.y, a.y_stride, a.F);
  Enqueue(programs, kernel, {CeilDiv(a.F, 64), a.T, 1}, 64);
}

void LaunchAdd(Programs& programs, const AddArgs& a) {
  if (a.n <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "add_f32");
  Arguments(kernel).Set(a.x, a.y, a.n);
  Enqueue(programs, kernel, {CeilDiv(a.n, 64), 1, 1}, 64);
}

void LaunchExpertCombine(Programs& programs, const ExpertCombineArgs& a) {
  if (a.T <= 0 || a.D <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kRows, DType::kF32, "combine_f32");
  const bool aligned = Aligned16(a.pair_out.offset, a.D) && Aligned16(a.y.offset, a.y_stride);
  Arguments(kernel).Set(a.pair_out, a.token_pairs, static_cast<cl_int>(a.K), a.D, a.y, a.y_stride,
                        cl_int{aligned});
  Enqueue(programs, kernel, {CeilDiv(a.D, 4 * 64), a.T, 1}, 64);
}

}  // namespace tandem::cl
