#include "cl_kernels/panel_split.h"

#include "cl_kernels/launch.h"
#include "memory/blocks.h"
#include "memory/split_layout.h"

namespace tandem::cl {

void LaunchPanelSplit(Programs& programs, const PanelSplitArgs& a) {
  if (a.rows <= 0 || a.cols <= 0) return;
  const auto side = [&](int i) {
    return static_cast<cl_long>(a.side_offset + SplitSideOffset(a.dtype, a.rows, a.cols, i));
  };
  const cl_kernel kernel = programs.Kernel(Program::kPanels, a.dtype, "panels_to_split");
  Arguments(kernel).Set(a.panels, static_cast<cl_long>(a.offset), a.out,
                        static_cast<cl_long>(a.data_offset), side(0), side(1),
                        static_cast<cl_int>(a.rows), static_cast<cl_int>(a.cols));
  Enqueue(programs, kernel, {a.cols / BlockElements(a.dtype), CeilDiv(a.rows, kPanelRows), 1},
          kPanelRows);
}

}  // namespace tandem::cl
