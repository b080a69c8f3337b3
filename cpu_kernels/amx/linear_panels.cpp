#include "cpu_kernels/amx/kernels.h"
#include "cpu_kernels/amx/linear_body.h"

// Weights in panels.

namespace tandem::cpu::amx {

void ManyQ8_0(const LinearArgs& args) { LinearTiles<PanelTiles<Q8_0>>(args); }
void ManyQ4_0(const LinearArgs& args) { LinearTiles<PanelTiles<Q4_0>>(args); }
void ManyQ4_1(const LinearArgs& args) { LinearTiles<PanelTiles<Q4_1>>(args); }
void ManyQ5_0(const LinearArgs& args) { LinearTiles<PanelTiles<Q5_0>>(args); }
void ManyQ5_1(const LinearArgs& args) { LinearTiles<PanelTiles<Q5_1>>(args); }
void ManyIQ4_NL(const LinearArgs& args) { LinearTiles<PanelTiles<IQ4_NL>>(args); }
void ManyMXFP4(const LinearArgs& args) { LinearTiles<PanelTiles<MXFP4>>(args); }
void ManyQ2_K(const LinearArgs& args) { LinearTiles<PanelTiles<Q2_K>>(args); }
void ManyQ3_K(const LinearArgs& args) { LinearTiles<PanelTiles<Q3_K>>(args); }
void ManyQ4_K(const LinearArgs& args) { LinearTiles<PanelTiles<Q4_K>>(args); }
void ManyQ5_K(const LinearArgs& args) { LinearTiles<PanelTiles<Q5_K>>(args); }
void ManyQ6_K(const LinearArgs& args) { LinearTiles<PanelTiles<Q6_K>>(args); }
void ManyIQ4_XS(const LinearArgs& args) { LinearTiles<PanelTiles<IQ4_XS>>(args); }

}  // namespace tandem::cpu::amx
