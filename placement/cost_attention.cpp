// What attention costs a step.
#include <algorithm>

#include "placement/attention_scratch.h"
#include "placement/cost_step.h"
#include "placement/model_sizes.h"

namespace tandem {
namespace {

// Of the table's time per key, for narrower keys on a device that is nearly empty (MHA with 128
// values on an H100: 0.35 us a key, MLA with 576: 0.36 to 0.54).
constexpr double kLeastKeyShare = 0.75;

// What the products of attention are made of.
struct AttentionWidths {
  double D, heads, q_width, kv_width, q_rank, out_width;
  double absorb;  // weights of W_UK and W_UV
};

AttentionWidths WidthsOf(const Config& c) {
  const auto heads = static_cast<double>(c.num_attention_heads);
  return {static_cast<double>(c.hidden_size),
          heads,
          heads * static_cast<double>(c.qk_head_dim()),
          static_cast<double>(c.kv_width()),
          static_cast<double>(c.q_lora_rank),
          heads * static_cast<double>(c.v_head_dim),
          heads * static_cast<double>((c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank)};
}

}  // namespace

// The tables hold MLA with R 512 and 64 roped values, nope and v 128.
double StepEstimate::AttentionScale(int device) const {
  const Config& c = config_;
  constexpr double kTableKey = 576 + 512;
  constexpr double kTableAbsorb = 2 * 128 * 512;
  double key = 2 * static_cast<double>(c.v_head_dim);
  double absorb = 0;
  if (c.attention == AttentionKind::kMla) {
    key = static_cast<double>(c.kv_width() + c.kv_lora_rank);
    absorb = static_cast<double>((c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank);
  }
  const double heads = step_.rows * static_cast<double>(c.num_attention_heads);
  if (device >= 0 && heads <= ComputeUnits(device)) {
    // One work-group a head walks the keys one after the other: with few of them a key takes the
    // time that memory takes to answer, whatever its width.
    key = std::max(key, kLeastKeyShare * kTableKey);
  }
  return (step_.keys * key + absorb) / (step_.keys * kTableKey + kTableAbsorb);
}

double StepEstimate::ComputeUnits(int device) const {
  const int index = plan_.devices[static_cast<std::size_t>(device)].index;
  const auto found = std::ranges::find(machine_.devices, index, &Device::index);
  return found != machine_.devices.end() ? found->compute_units : 0;
}

StepEstimate::Part StepEstimate::AttentionOnHost() const {
  const Config& c = config_;
  const double rows = step_.rows;
  const auto [D, heads, q_width, kv_width, q_rank, out_width, absorb] = WidthsOf(c);
  Part part;
  double weights = 0;
  const auto linear = [&](double n, double k) {
    part.seconds += team_.Linear(types_.attention, n, k, rows);
    weights += n * k;
  };
  part.seconds += team_.Values(rows, D);
  linear((q_rank > 0 ? q_rank : q_width) + kv_width, D);
  if (q_rank > 0) {
    part.seconds += team_.Values(rows, q_rank);
    linear(q_width, q_rank);
  }
  part.seconds += team_.Values(rows, kv_width + q_width);
  part.seconds += AttentionScale(-1) * team_.Attention(heads, rows, step_.keys);
  linear(D, out_width);
  part.bytes = (weights + absorb) * BytesPerElement(types_.attention) +
               rows * step_.keys * static_cast<double>(KvTokenBytes(config_, plan_.kv_type)) /
                   std::max(1.0, rows / 16);
  return part;
}

StepEstimate::Part StepEstimate::AttentionOnDevice(int device) const {
  const Config& c = config_;
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  const double rows = step_.rows;
  const auto [D, heads, q_width, kv_width, q_rank, out_width, absorb] = WidthsOf(c);
  Part part;
  double weights = 0;
  const auto linear = [&](double n, double k) {
    part.seconds += d.Linear(types_.attention, n, k, rows);
    part.launches += 1;
    weights += n * k;
  };
  const auto values = [&](double width) {
    part.seconds += d.Values(rows, width);
    part.launches += 1;
  };
  // Norms, and in MLA the rotation of the queries, are parts of other launches.
  if (c.attention == AttentionKind::kMha) {
    linear(q_width + kv_width / 2, D);
    linear(kv_width / 2, D);
    values(q_width);
    values(kv_width);
  } else {
    linear((q_rank > 0 ? q_rank : q_width) + kv_width, D);
    if (q_rank > 0) linear(q_width, q_rank);
  }
  const bool mla = c.attention == AttentionKind::kMla;
  const bool with_query = mla && rows <= static_cast<double>(kDeviceMlaAppendRows);
  if (!with_query) values(kv_width);  // the cache
  part.seconds += AttentionScale(device) * d.Attention(heads, rows, step_.keys);
  part.launches += mla ? 3 : 1;
  linear(D, out_width);
  part.bytes = (weights + absorb) * BytesPerElement(types_.attention) +
               rows * step_.keys * kv_width * BytesPerElement(plan_.kv_type);
  return part;
}

void StepEstimate::Attention(const LayerPlan& layer) {
  MoveX(layer.attention);
  if (layer.attention.on_device()) {
    AddDevice(layer.attention.index, AttentionOnDevice(layer.attention.index));
  } else {
    AddHost(AttentionOnHost());
  }
}

}  // namespace tandem
