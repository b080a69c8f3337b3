#include "cl_kernels/kv_append.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {

void LaunchKvAppend(Programs& programs, const KvAppendArgs& a) {
  if (a.T <= 0 || a.width <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kKvCache, a.kv_type, "kv_append");
  Arguments(kernel).Set(a.x, a.x_stride, a.kv, a.width, a.slots);
  Enqueue(programs, kernel, {CeilDiv(a.width, 64), a.T, 1}, 64);
}

}  // namespace tandem::cl
