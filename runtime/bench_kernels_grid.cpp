#include "runtime/bench_kernels_cases.h"

namespace tandem {
namespace {

const ExpertsShape kV3{"V3", 7168, 2048, 256, 8};
const ExpertsShape kV2Lite{"V2-Lite", 2048, 1408, 64, 6};
constexpr std::int64_t kVocab = 129280;

KernelGrid GpuGrid() {
  KernelGrid g;
  g.matrices = g.wide_matrices = {{7168, 18432}, {2048, 7168}, {2048, 2048}, {512, 7168}};
  g.decode_formats = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kF8E4M3,
                      DType::kQ8_0, DType::kQ6_K, DType::kQ5_K, DType::kQ5_0,
                      DType::kQ4_K, DType::kQ4_0, DType::kMXFP4};
  g.prefill_formats = {DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K};
  g.decode_rows = {1, 2, 4, 8, 16};
  g.prefill_rows = {64, 512, 4096};
  g.experts = {kV3, kV2Lite};
  g.expert_formats = {DType::kBF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K, DType::kMXFP4};
  g.expert_tokens = {1, 16};
  g.heads = {128, 16};
  g.sequences = {1, 16};
  g.keys = {8192, 32768, 131072};
  g.kv_types = {DType::kF16, DType::kBF16, DType::kF8E4M3};
  g.head_formats = {DType::kBF16, DType::kF8E4M3};
  g.widths = {7168, 2048};
  g.tokens = {1, 16, 4096};
  g.vocab_size = kVocab;
  return g;
}

// Compilers for CPUs take a second or two over each kernel and format, and the cores are slow.
KernelGrid CpuGrid() {
  KernelGrid g;
  g.matrices = {{2048, 2048}, {512, 7168}};
  g.wide_matrices = {{512, 2048}};
  g.decode_formats = {DType::kF32, DType::kBF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K};
  g.prefill_formats = {DType::kBF16, DType::kQ4_K};
  g.decode_rows = {1, 4};
  g.prefill_rows = {64};
  g.experts = {kV2Lite};
  g.expert_formats = {DType::kBF16, DType::kQ4_K};
  g.expert_tokens = {1};
  g.expert_rows = 16;
  g.most_experts = 2;
  g.heads = {16};
  g.sequences = {1};
  g.keys = {2048};
  g.kv_types = {DType::kF16};
  g.head_formats = {DType::kBF16};
  g.widths = {2048};
  g.tokens = {1, 16};
  g.vocab_size = kVocab;
  return g;
}

KernelGrid QuickGrid() {
  KernelGrid g;
  g.matrices = {{64, 512}};
  g.wide_matrices = {{64, 256}};
  g.decode_formats = {DType::kBF16, DType::kMXFP4};
  g.prefill_formats = {DType::kBF16};
  g.decode_rows = {1};
  g.prefill_rows = {48};
  g.experts = {{"tiny", 256, 64, 16, 4}};
  g.expert_formats = {DType::kBF16};
  g.expert_tokens = {1};
  g.expert_rows = 8;
  g.most_experts = 4;
  g.heads = {4};
  g.sequences = {1};
  g.keys = {256};
  g.kv_types = {DType::kF16};
  g.head_formats = {DType::kBF16};
  g.widths = {256};
  g.tokens = {1};
  g.vocab_size = 1000;
  return g;
}

}  // namespace

KernelGrid GridOf(const ClDeviceInfo& device, bool quick) {
  if (quick) return QuickGrid();
  return device.is_cpu ? CpuGrid() : GpuGrid();
}

}  // namespace tandem
