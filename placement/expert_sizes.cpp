#include "placement/expert_sizes.h"

#include <algorithm>

#include "memory/blocks.h"
#include "memory/split_layout.h"

namespace tandem {
namespace {

// As runtime/expert_copy.h and runtime/weight_layout.h lay matrices out.
std::uint64_t Aligned(std::uint64_t bytes) {
  constexpr std::uint64_t kAlign = 256;
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// Adds one matrix to an expert's bytes.
void Add(const TensorInfo& t, ExpertSizes& expert) {
  const bool packed = IsBlockFormat(t.dtype);
  const std::uint64_t scales =
      t.has_scale ? static_cast<std::uint64_t>(t.scale_rows() * t.scale_cols()) * sizeof(float) : 0;
  const std::uint64_t side = packed ? SplitSideBytes(t.dtype, t.rows(), t.cols()) : scales;
  expert.raw_bytes += Aligned(packed ? PackedBytes(t.dtype, t.rows(), t.cols())
                                     : DataBytes(t.dtype, t.rows() * t.cols())) +
                      Aligned(scales);
  expert.device_bytes += Aligned(SplitDataBytes(t.dtype, t.rows(), t.cols())) + Aligned(side);
  expert.bf16_bytes += Aligned(static_cast<std::uint64_t>(t.rows() * t.cols()) * 2);
}

}  // namespace

std::vector<ExpertFormats> FormatsOfExperts(const TensorList& tensors, std::size_t layers) {
  std::vector<ExpertFormats> formats(layers);
  for (const TensorInfo& tensor : tensors.all()) {
    if (tensor.role != Role::kRouted) continue;
    ExpertFormats& layer = formats[static_cast<std::size_t>(tensor.layer)];
    std::optional<DType>& format = tensor.part == Part::kDown ? layer.down : layer.gate_up;
    layer.mixed = layer.mixed || (format && *format != tensor.dtype);
    format = tensor.dtype;
  }
  return formats;
}

ExpertSizes SizesOfExperts(const TensorList& tensors, std::size_t layers) {
  ExpertSizes largest;
  ExpertSizes expert;
  for (const ExpertFormats& layer : FormatsOfExperts(tensors, layers)) {
    largest.device_formats = largest.device_formats && !layer.mixed;
  }
  for (const TensorInfo& t : tensors.all()) {
    if (t.role != Role::kRouted) continue;
    if (!IsDeviceFormat(t.dtype)) {
      largest.device_formats = false;
      continue;
    }
    if (t.part == Part::kGate) {
      expert = {};
      ++largest.experts;
    }
    (IsBlockFormat(t.dtype) ? largest.panels : largest.rows) = true;
    Add(t, expert);
    largest.raw_bytes = std::max(largest.raw_bytes, expert.raw_bytes);
    largest.device_bytes = std::max(largest.device_bytes, expert.device_bytes);
    largest.bf16_bytes = std::max(largest.bf16_bytes, expert.bf16_bytes);
  }
  return largest;
}

// Streamed experts travel all in panels, or all as devices take them.
StreamPlan StreamOf(const ExpertSizes& s, bool rounds) {
  if (!s.device_formats || (s.panels && (s.rows || !rounds))) return {};
  return {0, s.raw_bytes, s.panels ? s.bf16_bytes : 0};
}

CachePlan CacheOf(const ExpertSizes& s) {
  if (!s.device_formats) return {};
  CachePlan all;
  all.slots = s.experts;
  all.expert_bytes = s.device_bytes;
  all.raw_bytes = s.raw_bytes;
  return all;
}

}  // namespace tandem
