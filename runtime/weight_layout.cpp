#include "runtime/weight_layout.h"

#include <algorithm>
#include <numeric>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::uint64_t kHostAlign = 64;     // a cache line, and a 512-bit vector
constexpr std::uint64_t kDeviceAlign = 256;  // satisfies CL_DEVICE_MEM_BASE_ADDR_ALIGN everywhere
constexpr std::uint64_t kPieceBytes = std::uint64_t{4} << 20;  // fits L2 while it is checked

constexpr std::uint64_t AlignUp(std::uint64_t n, std::uint64_t a) { return (n + a - 1) / a * a; }

}  // namespace

// The state of one walk over all tensors. In the counting pass nothing has an address.
struct WeightLayout::Pass {
  bool assign = false;
  std::vector<std::uint64_t> host_used;    // per node
  std::vector<std::uint64_t> device_used;  // per arena; the last one is being filled
  std::uint64_t max_arena = 0;

  // Starts a new arena if `bytes` more would overflow this one: what must lie in one buffer asks
  // for its whole size at once.
  void OpenArena(std::uint64_t bytes) {
    if (device_used.empty() || device_used.back() + bytes > max_arena) device_used.push_back(0);
  }
  std::uint64_t TakeHost(int node, std::uint64_t bytes) {
    return std::exchange(host_used[node], host_used[node] + AlignUp(bytes, kHostAlign));
  }
  std::uint64_t TakeDevice(std::uint64_t bytes) {
    return std::exchange(device_used.back(), device_used.back() + AlignUp(bytes, kDeviceAlign));
  }
};

namespace {

std::uint64_t DeviceBytes(const TensorInfo& t) {
  return AlignUp(t.data.bytes, kDeviceAlign) +
         (t.has_scale ? AlignUp(t.scale.bytes, kDeviceAlign) : 0);
}

}  // namespace

WeightLayout::WeightLayout(const Model& model, const Plan& plan, const ClDevice* device,
                           Weights& weights)
    : model_(model), plan_(plan), device_(device), weights_(weights) {
  Pass count;
  count.host_used.assign(plan.nodes.size(), 0);
  count.max_arena = plan.devices.empty() ? 0 : plan.devices[0].max_alloc_bytes;
  Walk(count);
  for (std::size_t node = 0; node < plan.nodes.size(); ++node) {
    weights.host_.emplace_back(count.host_used[node], plan.nodes[node].os_index);
  }
  for (std::uint64_t bytes : count.device_used) {
    weights.device_.push_back(device->Allocate(bytes, CL_MEM_READ_ONLY));
  }
  Pass assign;
  assign.assign = true;
  assign.host_used.assign(plan.nodes.size(), 0);
  assign.max_arena = count.max_arena;
  Walk(assign);
}

void WeightLayout::Walk(Pass& pass) {
  const auto n_layers = static_cast<int>(plan_.layers.size());
  weights_.layers.resize(n_layers);
  PlaceMatrix(pass, weights_.embedding, Role::kEmbedding, Part::kEmbed, -1, -1, plan_.embedding);
  for (int layer = 0; layer < n_layers; ++layer) WalkLayer(pass, layer);
  PlaceMatrix(pass, weights_.lm_head, Role::kHead, Part::kLmHead, -1, -1, plan_.head);
}

void WeightLayout::WalkLayer(Pass& pass, int layer) {
  const LayerPlan& p = plan_.layers[layer];
  LayerWeights& w = weights_.layers[layer];
  WalkAttention(pass, layer);
  if (!p.moe) return WalkMlp(pass, w.dense, Role::kDense, layer, -1, p.dense);
  PlaceMatrix(pass, w.router, Role::kRouter, Part::kRouterWeight, layer, -1, p.router);
  WalkMlp(pass, w.shared, Role::kShared, layer, -1, p.shared);
  w.experts.resize(p.experts.size());
  for (std::size_t e = 0; e < p.experts.size(); ++e) {
    WalkMlp(pass, w.experts[e], Role::kRouted, layer, static_cast<int>(e), p.experts[e]);
  }
}

void WeightLayout::WalkAttention(Pass& pass, int layer) {
  AttentionWeights& w = weights_.layers[layer].attention;
  const Config& c = model_.config;
  const Place place = plan_.layers[layer].attention;
  auto matrix = [&](Matrix& m, Part part, std::int64_t row_unit = 1) {
    PlaceMatrix(pass, m, Role::kAttention, part, layer, -1, place, row_unit);
  };
  matrix(w.q, Part::kQ);
  matrix(w.q_a, Part::kQA);
  matrix(w.q_b, Part::kQB);
  matrix(w.kv_a, Part::kKvA);
  matrix(w.kv_b, Part::kKvB, c.qk_nope_head_dim + c.v_head_dim);  // a head's rows stay together
  matrix(w.k, Part::kK);
  matrix(w.v, Part::kV);
  matrix(w.o, Part::kO);
}

void WeightLayout::WalkMlp(Pass& pass, MlpWeights& mlp, Role role, int layer, int expert,
                           Place place) {
  if (place.on_device()) {
    // A kernel takes one buffer for an expert: its three matrices go into one arena.
    std::uint64_t bytes = 0;
    for (Part part : {Part::kGate, Part::kUp, Part::kDown}) {
      const TensorInfo* t = model_.tensors.Find(role, part, layer, expert);
      if (t != nullptr) bytes += DeviceBytes(*t);
    }
    if (role == Role::kRouted) pass.OpenArena(bytes);
  }
  PlaceMatrix(pass, mlp.gate, role, Part::kGate, layer, expert, place);
  PlaceMatrix(pass, mlp.up, role, Part::kUp, layer, expert, place);
  PlaceMatrix(pass, mlp.down, role, Part::kDown, layer, expert, place);
}

void WeightLayout::PlaceMatrix(Pass& pass, Matrix& m, Role role, Part part, int layer, int expert,
                               Place place, std::int64_t row_unit) {
  const TensorInfo* t = model_.tensors.Find(role, part, layer, expert);
  if (t == nullptr) return;  // e.g. no q_a without a low-rank query
  m.info = t;
  m.place = place;
  if (place.on_device()) {
    PlaceOnDevice(pass, m);
  } else {
    PlaceOnHost(pass, m, row_unit);
  }
}

void WeightLayout::PlaceOnHost(Pass& pass, Matrix& m, std::int64_t row_unit) {
  const TensorInfo& t = *m.info;
  const auto nodes = static_cast<std::int64_t>(plan_.nodes.size());
  // Shards start on the border of an FP8 scale block, in every format, so that matrices of equal
  // shape are cut alike; a head's rows are not cut.
  const std::int64_t unit = std::lcm(row_unit, std::int64_t{kFp8Block});
  const std::int64_t units = (t.rows() + unit - 1) / unit;
  const std::uint64_t row_bytes = t.cols() * BytesOf(t.dtype);
  for (std::int64_t node = 0; node < nodes; ++node) {
    HostShard shard;
    shard.node = static_cast<int>(node);
    shard.row0 = std::min(t.rows(), units * node / nodes * unit);
    shard.row1 = std::min(t.rows(), units * (node + 1) / nodes * unit);
    if (shard.row0 == shard.row1) continue;
    const std::uint64_t bytes = (shard.row1 - shard.row0) * row_bytes;
    const std::uint64_t at = pass.TakeHost(shard.node, bytes);
    const std::int64_t scale0 = shard.row0 / kFp8Block;
    const std::int64_t scale1 = (shard.row1 + kFp8Block - 1) / kFp8Block;
    const std::uint64_t scale_row_bytes = t.scale_cols() * sizeof(float);
    const std::uint64_t scale_bytes = t.has_scale ? (scale1 - scale0) * scale_row_bytes : 0;
    const std::uint64_t scale_at = scale_bytes > 0 ? pass.TakeHost(shard.node, scale_bytes) : 0;
    if (!pass.assign) continue;
    std::byte* base = weights_.host_[node].data();
    shard.data = base + at;
    AddTasks(t, Piece::kData, shard.row0 * row_bytes, bytes, shard.data, nullptr, 0);
    if (scale_bytes > 0) {
      shard.scale = reinterpret_cast<float*>(base + scale_at);
      AddTasks(t, Piece::kScale, scale0 * scale_row_bytes, scale_bytes, base + scale_at, nullptr,
               0);
    }
    m.shards.push_back(shard);
  }
}

void WeightLayout::PlaceOnDevice(Pass& pass, Matrix& m) {
  const TensorInfo& t = *m.info;
  pass.OpenArena(DeviceBytes(t));
  const std::uint64_t at = pass.TakeDevice(t.data.bytes);
  const std::uint64_t scale_at = t.has_scale ? pass.TakeDevice(t.scale.bytes) : 0;
  if (!pass.assign) return;
  cl_mem buffer = weights_.device_[pass.device_used.size() - 1].get();
  m.device = {buffer, at, scale_at, t.dtype, t.rows(), t.cols()};
  AddTasks(t, Piece::kData, 0, t.data.bytes, nullptr, buffer, at);
  if (t.has_scale) AddTasks(t, Piece::kScale, 0, t.scale.bytes, nullptr, buffer, scale_at);
}

void WeightLayout::AddTasks(const TensorInfo& t, Piece piece, std::uint64_t offset,
                            std::uint64_t bytes, std::byte* host, cl_mem device,
                            std::uint64_t device_offset) {
  for (std::uint64_t done = 0; done < bytes; done += kPieceBytes) {
    const std::uint64_t n = std::min(kPieceBytes, bytes - done);
    tasks.push_back({&t, piece, offset + done, n, host != nullptr ? host + done : nullptr, device,
                     device_offset + done});
  }
}

}  // namespace tandem
