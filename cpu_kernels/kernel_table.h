#pragma once

#include "cpu_kernels/attention.h"
#include "cpu_kernels/isa.h"
#include "cpu_kernels/kv_rows.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/router.h"
#include "cpu_kernels/vector_ops.h"
#include "memory/dtype.h"

namespace tandem::cpu {

// A linear kernel that is worth calling from `min_rows` rows of x on; it takes x_type only and any
// number of rows. Where there is none, `linear` is the best for any number of rows.
struct ManyRows {
  void (*linear)(const LinearArgs&) = nullptr;
  DType x_type = DType::kBF16;
  std::int64_t min_rows = 0;

  bool For(std::int64_t T) const { return linear != nullptr && T >= min_rows; }
};

// One function per operation, filled upward: each level overrides what it does better and inherits
// the rest, so every entry is always callable. Arrays are indexed by weight format; they are plain
// arrays because std::array's operator[] would become a weak function of the closed ISA folders.
struct KernelTable {
  Isa isa = Isa::kRef;

  // Scalar formats take f32 and bf16 x, block formats f32 and quantised x.
  void (*linear[kNumWeightFormats])(const LinearArgs&) = {};
  ManyRows many[kNumWeightFormats] = {};
  void (*linear_transposed[kNumScalarFormats])(const LinearTransposedArgs&) = {};
  void (*quantize_rows)(const QuantizeArgs&) = nullptr;
  void (*rmsnorm)(const RmsNormArgs&) = nullptr;
  void (*swiglu)(const SwigluArgs&) = nullptr;
  void (*rope)(const RopeArgs&) = nullptr;
  void (*attention)(const AttentionArgs&) = nullptr;
  // The same with queries, keys, values and weights rounded to bf16, for shared keys (strides 0)
  // and dv % 16 == 0; null where `attention` is faster.
  void (*attention_bf16)(const AttentionArgs&) = nullptr;
  void (*kv_encode)(const KvEncodeArgs&) = nullptr;
  void (*kv_decode)(const KvDecodeArgs&) = nullptr;
  void (*router)(const RouterArgs&) = nullptr;
  void (*to_bf16)(const ConvertArgs&) = nullptr;
  void (*to_f16)(const ConvertArgs&) = nullptr;
  void (*widen)(const WidenArgs&) = nullptr;
  void (*add)(const AddArgs&) = nullptr;
};

// The table of one level. `isa` must be supported by this CPU.
KernelTable MakeKernelTable(Isa isa);

}  // namespace tandem::cpu
