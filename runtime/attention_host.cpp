// Attention on the CPU: projections, the KV cache, and MHA; MLA's scores are in mla_host.h.
#include <algorithm>
#include <cstring>

#include "memory/error.h"
#include "runtime/forward.h"
#include "runtime/mla_host.h"

namespace tandem {

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

namespace {

void WriteKvRow(const cpu::KernelTable& k, const cpu::KvLayout& layout, const float* z,
                std::byte* row) {
  auto* halves = reinterpret_cast<std::uint16_t*>(row);
  if (layout.type == DType::kBF16) return k.to_bf16({z, halves, layout.width});
  if (layout.type == DType::kF16) return k.to_f16({z, halves, layout.width});
  k.kv_encode({layout, z, layout.width, row, 1});
}

}  // namespace

void Attention::AppendOnHost(int layer) {
  const Config& c = f_.config;
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const cpu::KernelTable& k = f_.host.kernels;
  const std::int64_t d = c.qk_rope_head_dim;
  const std::int64_t width = c.kv_width();
  const bool mla = c.attention == AttentionKind::kMla;
  const cpu::KvLayout layout = LayoutOfKv(c, f_.kv_type());
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
      WriteKvRow(k, layout, z, store + f_.batch.slots[t] * cpu::KvRowBytes(layout));
    }
  });
}

void Attention::PrepareHost() {
  const AttentionScratch sizes(f_.config, f_.plan);
  f_.host.CheckWorkerScratch(sizes.worker());
  if (f_.config.attention == AttentionKind::kMla) mla_ = std::make_unique<MlaOnHost>(f_, q_, out_);
}

void Attention::AttendOnHost(int layer) {
  if (mla_ == nullptr) return MhaOnHost(layer);
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  for (const Matrix* m : {&w.kv_b, &w.k_b, &w.v_b}) {
    if (*m) f_.host.metrics.host_weight_bytes += m->info->bytes();
  }
  mla_->Run(layer);
}

namespace {

// Heads of one row, each with keys and values of its own, in a worker's scratch.
class MhaTask {
 public:
  MhaTask(const Forward& f, int layer, const HostActivation& q, const HostActivation& out,
          float* scratch)
      : f_(f), sizes_(f.config, f.plan), q_(q), out_(out), store_(f.kv[layer].host.data()) {
    const std::int64_t d = f.config.v_head_dim;
    blocks_ = reinterpret_cast<const void**>(scratch);
    a_.maximum = scratch + sizes_.block_pointers;
    a_.sum = a_.maximum + sizes_.queries;
    n_keys_ = reinterpret_cast<std::int32_t*>(a_.sum + sizes_.queries);
    a_.scratch = a_.maximum + sizes_.tile_state;
    TANDEM_CHECK(sizes_.kernel >= cpu::AttentionScratchFloats(d, d));
    a_.blocks = blocks_;
    a_.n_keys = n_keys_;
    a_.kv_type = f.kv_type();
    a_.token_bytes = cpu::KvRowBytes(LayoutOfKv(f.config, f.kv_type()));
    a_.scale = static_cast<float>(f.config.softmax_scale());
    a_.dk = a_.dv = a_.k_head_stride = a_.v_head_stride = d;
    a_.q_stride = a_.out_stride = d;
  }
  std::int64_t most_heads() const { return sizes_.queries; }

  void Run(std::int64_t t, std::int64_t head0, std::int64_t heads) {
    const std::int64_t d = a_.dk;
    a_.n = heads;
    a_.q = q_.row(t) + head0 * d;
    a_.out = out_.row(t) + head0 * d;
    a_.k_offset = head0 * d;
    a_.v_offset = f_.config.kv_width() / 2 + head0 * d;
    a_.last_key = f_.batch.n_keys[t];
    std::fill_n(n_keys_, heads, f_.batch.n_keys[t]);
    const std::int32_t* table = f_.batch.tables.data() + f_.batch.table_start[t];
    for (std::int64_t i = 0; i * kKvBlock < a_.last_key; ++i) {
      blocks_[i] = store_ + table[i] * kKvBlock * a_.token_bytes;
    }
    f_.host.kernels.attention(a_);
    for (std::int64_t h = 0; h < heads; ++h) {
      const float inverse = 1.0F / a_.sum[h];
      for (std::int64_t c = 0; c < d; ++c) a_.out[h * d + c] *= inverse;
    }
    out_.Shade(f_.host.kernels, t, head0 * d, heads * d);
  }

 private:
  const Forward& f_;
  const AttentionScratch sizes_;
  const HostActivation& q_;
  const HostActivation& out_;
  const std::byte* store_;
  cpu::AttentionArgs a_;
  const void** blocks_;
  std::int32_t* n_keys_;
};

}  // namespace

// Each node takes an even share of the heads; a ticket is some heads of one row.
void Attention::MhaOnHost(int layer) {
  const std::int64_t H = f_.config.num_attention_heads;
  const std::int64_t T = f_.T();
  const int nodes = f_.host.pool.nodes();
  f_.host.ResetTickets();
  f_.host.pool.Run([&](const Worker& w) {
    MhaTask task(f_, layer, q_, out_, f_.host.scratch(w));
    const std::int64_t first = H * w.node / nodes;
    const std::int64_t n = H * (w.node + 1) / nodes - first;
    if (n == 0) return;
    const std::int64_t share = std::max<std::int64_t>(1, n * T / w.count_in_node);
    const std::int64_t group = std::min({share, n, task.most_heads()});
    const std::int64_t groups = (n + group - 1) / group;
    for (std::int64_t i = f_.host.tickets[w.node].Take(); i < groups * T;
         i = f_.host.tickets[w.node].Take()) {
      const std::int64_t head = i % groups * group;
      task.Run(i / groups, first + head, std::min(group, n - head));
    }
  });
}

}  // namespace tandem
