#pragma once

#include "cpu_kernels/attention.h"
#include "cpu_kernels/isa.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/router.h"
#include "cpu_kernels/vector_ops.h"
#include "memory/dtype.h"

namespace tandem::cpu {

// One function per operation, filled upward: each level overrides what it does better and inherits
// the rest, so every entry is always callable. Arrays are indexed by weight format; they are plain
// arrays because std::array's operator[] would become a weak function of the closed ISA folders.
struct KernelTable {
  Isa isa = Isa::kRef;

  void (*linear[kNumWeightFormats])(const LinearArgs&) = {};  // takes both x types
  void (*linear_transposed[kNumWeightFormats])(const LinearTransposedArgs&) = {};
  void (*rmsnorm)(const RmsNormArgs&) = nullptr;
  void (*swiglu)(const SwigluArgs&) = nullptr;
  void (*rope)(const RopeArgs&) = nullptr;
  void (*attention)(const AttentionArgs&) = nullptr;
  void (*router)(const RouterArgs&) = nullptr;
  void (*to_bf16)(const ConvertArgs&) = nullptr;
  void (*to_f16)(const ConvertArgs&) = nullptr;
  void (*widen)(const WidenArgs&) = nullptr;
  void (*add)(const AddArgs&) = nullptr;
};

// The table of one level. `isa` must be supported by this CPU.
KernelTable MakeKernelTable(Isa isa);

}  // namespace tandem::cpu
