// Attention on the CPU. MLA runs in its absorbed form (DeepSeek-V2 section 2.1.2): the query goes
// into the latent space, so that one cached vector of R + d_r values serves all heads.
#include <algorithm>
#include <cstring>

#include "memory/error.h"
#include "runtime/forward.h"
#include "runtime/head_maps.h"

namespace tandem {
namespace {

// A tile of rows shares the reading of one head's W_UK and W_UV (128 KiB each in bf16).
constexpr std::int64_t kRowTile = 16;
constexpr std::int64_t kMaxHeadGroup = 16;

// Heads of a node that one ticket takes: as many as share a pass over the latent, but enough
// tickets for every worker. The kernels share a pass from 8 heads on.
std::int64_t HeadGroup(std::int64_t heads, std::int64_t row_tiles, int workers) {
  const std::int64_t group = heads * row_tiles / workers;
  return std::clamp<std::int64_t>(group, 1, std::min(heads, kMaxHeadGroup));
}

// The part of the heads that a node works on.
struct HeadRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

}  // namespace

void Attention::RunOnHost(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  RmsNormOnHost(f_.host, f_.x.host(), c.hidden_size, w.input_norm, f_.h, c.hidden_size, f_.T(),
                c.rms_norm_eps);
  ProjectOnHost(layer);
  AppendOnHost(layer);
  AttendOnHost(layer);
  const HostLinear out{&w.o, out_.rows(), nullptr, f_.x.host(), c.hidden_size, f_.T(), true};
  LinearOnHost(f_.host, {&out, 1});
}

void Attention::ProjectOnHost(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const HostRows h = f_.h.rows();
  auto task = [&](const Matrix& m, const HostActivation& y, std::int64_t column = 0) {
    return HostLinear{&m, h, nullptr, y.row(0) + column, y.stride(), f_.T(), false};
  };
  if (c.attention == AttentionKind::kMha) {
    const HostLinear tasks[] = {task(w.q, q_), task(w.k, z_), task(w.v, z_, c.kv_width() / 2)};
    return LinearOnHost(f_.host, tasks);
  }
  if (c.q_lora_rank == 0) {
    const HostLinear tasks[] = {task(w.q, q_), task(w.kv_a, z_)};
    return LinearOnHost(f_.host, tasks);
  }
  const HostLinear down[] = {task(w.q_a, q_a_), task(w.kv_a, z_)};
  LinearOnHost(f_.host, down);
  RmsNormOnHost(f_.host, q_a_.row(0), q_a_.stride(), w.q_a_norm, q_a_, c.q_lora_rank, f_.T(),
                c.rms_norm_eps);
  const HostLinear up{&w.q_b, q_a_.rows(), nullptr, q_.row(0), q_.stride(), f_.T(), false};
  LinearOnHost(f_.host, {&up, 1});
}

void Attention::AppendOnHost(int layer) {
  const Config& c = f_.config;
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const cpu::KernelTable& k = f_.host.kernels;
  const std::int64_t d = c.qk_rope_head_dim;
  const std::int64_t width = c.kv_width();
  const bool mla = c.attention == AttentionKind::kMla;
  std::byte* store = f_.kv[layer].host.data();
  f_.host.ForRows(f_.T(), [&](std::int64_t t0, std::int64_t t1) {
    if (mla) {  // the norm covers the latent only, not the roped key behind it
      k.rmsnorm({z_.row(t0), width, w.kv_a_norm.host.data(), z_.row(t0), width, t1 - t0,
                 c.kv_lora_rank, static_cast<float>(c.rms_norm_eps)});
    }
    for (std::int64_t t = t0; t < t1; ++t) {
      const float* angles = f_.batch.cos_sin.data() + t * d;
      float* z = z_.row(t);
      if (mla) {
        k.rope({z + c.kv_lora_rank, d, 1, d, angles, cpu::RopeLayout::kInterleaved});
        k.rope({q_.row(t) + c.qk_nope_head_dim, c.qk_head_dim(), c.num_attention_heads, d, angles,
                cpu::RopeLayout::kInterleaved});
      } else {
        k.rope({z, d, c.num_key_value_heads, d, angles, cpu::RopeLayout::kHalf});
        k.rope({q_.row(t), d, c.num_attention_heads, d, angles, cpu::RopeLayout::kHalf});
      }
      const std::int64_t at = f_.batch.slots[t] * width;
      if (f_.kv_type() == DType::kF32) {
        std::memcpy(reinterpret_cast<float*>(store) + at, z, width * sizeof(float));
      } else {
        const auto convert = f_.kv_type() == DType::kBF16 ? k.to_bf16 : k.to_f16;
        convert({z, reinterpret_cast<std::uint16_t*>(store) + at, width});
      }
    }
  });
}

namespace {

// One ticket of attention on the host: some rows and some heads, from the roped query to the head
// outputs. Works in the worker's scratch only.
class HeadTask {
 public:
  HeadTask(Forward& f, int layer, int node, const HostActivation& q, const HostActivation& out,
           float* scratch)
      : f_(f),
        c_(f.config),
        q_(q),
        out_(out),
        maps_(f, f.weights.layers[layer].attention, node, scratch + TaskFloats(f.config, f.plan)) {
    const std::int64_t width = c_.kv_width();
    kv_.kv_type = f.kv_type();
    kv_.token_stride = width;
    kv_.scale = static_cast<float>(c_.softmax_scale());
    store_ = f.kv[layer].host.data();
    block_bytes_ = kKvBlock * width * static_cast<std::int64_t>(BytesOf(f.kv_type()));
    blocks_ = reinterpret_cast<const void**>(scratch);
    absorbed_ = scratch + BlockFloats(f.plan);
    latent_ = absorbed_ + TileRows(c_, f.plan) * width;
    kv_.scratch = latent_ + TileRows(c_, f.plan) * c_.kv_lora_rank;
  }

  static std::int64_t ScratchFloats(const Config& c, const Plan& plan) {
    return TaskFloats(c, plan) + HeadMaps::ScratchFloats(c, std::min(kRowTile, plan.max_rows));
  }
  const HeadMaps& maps() const { return maps_; }

  void Mla(std::int64_t head0, std::int64_t heads, std::int64_t t0, std::int64_t t1) {
    Absorb(head0, heads, t0, t1);
    kv_.heads = heads;
    kv_.dk = c_.kv_width();
    kv_.dv = c_.kv_lora_rank;
    kv_.q_head_stride = kv_.dk;
    kv_.out_head_stride = kv_.dv;
    for (std::int64_t t = t0; t < t1; ++t) {
      kv_.q = absorbed_ + (t - t0) * heads * kv_.dk;
      kv_.out = latent_ + (t - t0) * heads * kv_.dv;
      Attend(t);
    }
    Unabsorb(head0, heads, t0, t1);
  }

  void Mha(std::int64_t head0, std::int64_t heads, std::int64_t t0, std::int64_t t1) {
    const std::int64_t d = c_.v_head_dim;
    kv_.heads = heads;
    kv_.dk = kv_.dv = kv_.k_head_stride = kv_.v_head_stride = d;
    kv_.q_head_stride = kv_.out_head_stride = d;
    kv_.k_offset = head0 * d;
    kv_.v_offset = c_.kv_width() / 2 + head0 * d;
    for (std::int64_t t = t0; t < t1; ++t) {
      kv_.q = q_.row(t) + head0 * d;
      kv_.out = out_.row(t) + head0 * d;
      Attend(t);
      Shade(t, head0, heads);
    }
  }

 private:
  // A pointer to every block of the cache; what follows starts on a cache line.
  static std::int64_t BlockFloats(const Plan& plan) { return (2 * plan.kv_blocks + 15) / 16 * 16; }
  // Rows times heads of a ticket, at the most; MHA has no latent space.
  static std::int64_t TileRows(const Config& c, const Plan& plan) {
    if (c.attention == AttentionKind::kMha) return 0;
    return std::min(kRowTile, plan.max_rows) * std::min(kMaxHeadGroup, c.num_attention_heads);
  }
  static std::int64_t TaskFloats(const Config& c, const Plan& plan) {
    const std::int64_t heads = std::min(kMaxHeadGroup, c.num_attention_heads);
    const std::int64_t floats = BlockFloats(plan) +
                                TileRows(c, plan) * (c.kv_width() + c.kv_lora_rank) +
                                cpu::AttentionScratchFloats(heads, c.v_head_dim);
    return (floats + 15) / 16 * 16;
  }

  // q~_h = W_UK[h]^T q_n,h, with the roped part behind it: [rows, heads, R + d_r].
  void Absorb(std::int64_t head0, std::int64_t heads, std::int64_t t0, std::int64_t t1) {
    const std::int64_t width = c_.kv_width();
    const std::int64_t stride = heads * width;
    for (std::int64_t i = 0; i < heads; ++i) {
      const float* q = q_.row(t0) + (head0 + i) * c_.qk_head_dim();
      float* y = absorbed_ + i * width;
      maps_.Absorb(head0 + i, q, q_.stride(), t1 - t0, y, stride);
      for (std::int64_t t = 0; t < t1 - t0; ++t) {
        std::memcpy(y + t * stride + c_.kv_lora_rank, q + t * q_.stride() + c_.qk_nope_head_dim,
                    c_.qk_rope_head_dim * sizeof(float));
      }
    }
  }

  // o_h = W_UV[h] u_h
  void Unabsorb(std::int64_t head0, std::int64_t heads, std::int64_t t0, std::int64_t t1) {
    for (std::int64_t i = 0; i < heads; ++i) {
      float* y = out_.row(t0) + (head0 + i) * c_.v_head_dim;
      maps_.Unabsorb(head0 + i, latent_ + i * c_.kv_lora_rank, heads * c_.kv_lora_rank, t1 - t0, y,
                     out_.stride());
    }
    for (std::int64_t t = t0; t < t1; ++t) Shade(t, head0, heads);
  }

  void Shade(std::int64_t t, std::int64_t head0, std::int64_t heads) {
    out_.Shade(f_.host.kernels, t, head0 * c_.v_head_dim, heads * c_.v_head_dim);
  }

  void Attend(std::int64_t t) {
    kv_.n_keys = f_.batch.n_keys[t];
    const std::int64_t n_blocks = (kv_.n_keys + kKvBlock - 1) / kKvBlock;
    const std::int32_t* table = f_.batch.tables.data() + f_.batch.table_start[t];
    for (std::int64_t i = 0; i < n_blocks; ++i) blocks_[i] = store_ + table[i] * block_bytes_;
    kv_.blocks = blocks_;
    f_.host.kernels.attention(kv_);
  }

  Forward& f_;
  const Config& c_;
  const HostActivation& q_;
  const HostActivation& out_;
  const HeadMaps maps_;
  cpu::AttentionArgs kv_;
  const std::byte* store_ = nullptr;
  std::int64_t block_bytes_ = 0;
  const void** blocks_ = nullptr;
  float* absorbed_ = nullptr;
  float* latent_ = nullptr;
};

// The heads whose maps this node holds; without any (MHA) an even share.
HeadRange HeadsOfNode(const Config& c, const HeadMaps& maps, const Worker& w, int nodes) {
  if (c.attention == AttentionKind::kMla) return {maps.first(), maps.last()};
  return {c.num_attention_heads * w.node / nodes, c.num_attention_heads * (w.node + 1) / nodes};
}

}  // namespace

void Attention::CheckHostScratch() const {
  f_.host.CheckWorkerScratch(HeadTask::ScratchFloats(f_.config, f_.plan));
}

void Attention::AttendOnHost(int layer) {
  const AttentionWeights& weights = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t T = f_.T();
  const std::int64_t tiles = (T + kRowTile - 1) / kRowTile;
  for (const Matrix* m : {&weights.kv_b, &weights.k_b, &weights.v_b}) {
    if (*m) f_.host.metrics.host_weight_bytes += m->info->bytes();
  }
  f_.host.ResetTickets();
  f_.host.pool.Run([&](const Worker& w) {
    HeadTask task(f_, layer, w.node, q_, out_, f_.host.scratch(w));
    const HeadRange heads = HeadsOfNode(c, task.maps(), w, f_.host.pool.nodes());
    const std::int64_t n = heads.last - heads.first;
    if (n == 0) return;
    const std::int64_t group = HeadGroup(n, tiles, w.count_in_node);
    const std::int64_t groups = (n + group - 1) / group;
    for (std::int64_t i = f_.host.tickets[w.node].Take(); i < groups * tiles;
         i = f_.host.tickets[w.node].Take()) {
      const std::int64_t head0 = heads.first + i % groups * group;
      const std::int64_t count = std::min(group, heads.last - head0);
      const std::int64_t t0 = i / groups * kRowTile;
      const std::int64_t t1 = std::min(T, t0 + kRowTile);
      if (c.attention == AttentionKind::kMla) {
        task.Mla(head0, count, t0, t1);
      } else {
        task.Mha(head0, count, t0, t1);
      }
    }
  });
}

}  // namespace tandem
