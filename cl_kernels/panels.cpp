#include "cl_kernels/panels.h"

#include "cl_kernels/launch.h"
#include "memory/blocks.h"

namespace tandem::cl {

void LaunchPanels(Programs& programs, const PanelsArgs& a) {
  constexpr std::int64_t kColumns = 256;  // of a work-group, as in panels.cl
  if (a.rows <= 0 || a.cols <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kPanels, a.dtype, "panels_to_bf16");
  Arguments(kernel).Set(a.panels, static_cast<cl_long>(a.offset), a.out,
                        static_cast<cl_int>(a.rows), static_cast<cl_int>(a.cols));
  Enqueue(programs, kernel, {CeilDiv(a.cols, kColumns), CeilDiv(a.rows, kPanelRows), 1}, 256);
}

}  // namespace tandem::cl
