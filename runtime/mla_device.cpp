// MLA on the OpenCL device: in its absorbed form (DeepSeek-V2 section 2.1), and many rows of one
// sequence in its expanded form. Only enqueues.
#include <algorithm>

#include "memory/error.h"
#include "placement/attention_scratch.h"
#include "runtime/forward.h"

namespace tandem {

static_assert(kDeviceMlaParts == cl::kMlaParts);

void Attention::MlaOnDevice(int layer) {
  ProjectMla(layer);
  const std::int64_t rows = DeviceMlaRows(f_.config, f_.plan.max_rows);
  std::int64_t absorbed = 0;  // rows from here on wait for their launches
  const auto flush = [&](std::int64_t end) {
    for (; absorbed < end; absorbed = std::min(end, absorbed + rows)) {
      AbsorbedMla(layer, absorbed, std::min(rows, end - absorbed));
    }
  };
  for (std::int64_t t = 0; t < f_.T();) {
    const std::int64_t end = MlaRunEnd(t);
    if (f_.plan.bf16_many_rows && end - t >= LeastExpandedRows(f_.config)) {
      const cl::MlaExpandedArgs a = MlaExpandedOf(layer, t, end - t);
      if (f_.device->kernels.MlaExpandedPays(a)) {
        flush(t);
        f_.device->kernels.MlaExpanded(a);
        absorbed = end;
      }
    }
    t = end;
  }
  flush(f_.T());
}

// The rows from t0 on that attend to one cache, each to no fewer keys than the one before.
std::int64_t Attention::MlaRunEnd(std::int64_t t0) const {
  const Batch& b = f_.batch;
  std::int64_t t = t0 + 1;
  while (t < f_.T() && b.table_start[t] == b.table_start[t0] && b.n_keys[t] >= b.n_keys[t - 1]) ++t;
  return t;
}

// q of every head, and this step's rows of the KV cache.
void Attention::ProjectMla(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  const std::int64_t T = f_.T();
  const std::int64_t width = c.kv_width();
  const std::int64_t q_width = c.num_attention_heads * c.qk_head_dim();
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const bool low_rank = c.q_lora_rank > 0;
  cl::Kernels& k = f_.device->kernels;
  cl::LinearArgs down{f_.x.on_device(),
                      D,
                      low_rank ? w.q_a.device : w.q.device,
                      low_rank ? dq_a_ : dq_,
                      low_rank ? c.q_lora_rank : q_width,
                      T,
                      false};
  down.norm = {w.input_norm.device, eps, f_.h_device, D};
  down.w2 = w.kv_a.device;
  down.y2 = dz_;
  down.y2_stride = width;
  down.bf16 = f_.plan.bf16_many_rows;
  down.work = work_;
  k.Linear(down);
  k.MlaAppend({dz_, width, w.kv_a_norm.device, eps, c.kv_lora_rank, c.qk_rope_head_dim,
               f_.batch.device_cos_sin, f_.kv[layer].device.get(), f_.kv_type(),
               f_.batch.device_slots, T});
  if (!low_rank) return;
  cl::LinearArgs up{dq_a_, c.q_lora_rank, w.q_b.device, dq_, q_width, T, false};
  up.norm = {w.q_a_norm.device, eps, dq_a_normed_, c.q_lora_rank};
  up.bf16 = down.bf16;
  up.work = work_;
  k.Linear(up);
}

// Rows [t0, t0 + T) of the step.
void Attention::AbsorbedMla(int layer, std::int64_t t0, std::int64_t T) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t H = c.num_attention_heads;
  const std::int64_t R = c.kv_lora_rank;
  const std::int64_t d = c.qk_rope_head_dim;
  const auto from = [&](const cl::Span& s, std::int64_t row) {
    return cl::Span{s.buffer, s.offset + t0 * row};
  };
  const cl::HeadWeights heads{w.kv_b.device, w.k_b.device, w.v_b.device};
  cl::Kernels& k = f_.device->kernels;
  k.MlaQuery({from(dq_, H * c.qk_head_dim()), H * c.qk_head_dim(), heads,
              from(f_.batch.device_cos_sin, d), dabsorbed_, T, H, R, d, c.qk_nope_head_dim,
              c.v_head_dim, f_.plan.bf16_many_rows});
  cl::MlaAttentionArgs a;
  a.q = dabsorbed_;
  a.kv = f_.kv[layer].device.get();
  a.kv_type = f_.kv_type();
  a.tables = f_.batch.device_tables;
  a.table_start = from(f_.batch.device_table_start, 1);
  a.n_keys = from(f_.batch.device_n_keys, 1);
  a.max_keys = *std::max_element(f_.batch.n_keys.begin() + t0, f_.batch.n_keys.begin() + t0 + T);
  a.T = T;
  a.H = H;
  a.R = R;
  a.d = d;
  a.scale = static_cast<float>(c.softmax_scale());
  a.splits = cl::MlaSplits(T, H, a.max_keys, f_.device->device.info().compute_units);
  a.parts = dparts_;
  a.lse = dlse_;
  a.bf16 = f_.plan.bf16_many_rows;
  k.MlaAttention(a);
  k.MlaOutput({dparts_, dlse_, a.splits, heads, from(dout_, H * c.v_head_dim), H * c.v_head_dim, T,
               H, R, c.qk_nope_head_dim, c.v_head_dim, a.bf16});
}

// Rows [t0, t0 + T) of one sequence. Keys and values take the room of the absorbed form's queries
// and partial results.
cl::MlaExpandedArgs Attention::MlaExpandedOf(int layer, std::int64_t t0, std::int64_t T) const {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t q_width = c.num_attention_heads * c.qk_head_dim();
  const auto from = [&](const cl::Span& s, std::int64_t row) {
    return cl::Span{s.buffer, s.offset + t0 * row};
  };
  const auto floats = [&](const char* name) {
    return static_cast<std::int64_t>(f_.device->ScratchBytes(name) / sizeof(float));
  };
  cl::MlaExpandedArgs a;
  a.q = from(dq_, q_width);
  a.q_stride = q_width;
  a.cos_sin = from(f_.batch.device_cos_sin, c.qk_rope_head_dim);
  a.kv = f_.kv[layer].device.get();
  a.kv_type = f_.kv_type();
  a.tables = f_.batch.device_tables;
  a.tables.offset += f_.batch.table_start[t0];
  a.n_keys = from(f_.batch.device_n_keys, 1);
  a.max_keys = f_.batch.n_keys[t0 + T - 1];
  a.w = {w.kv_b.device, w.k_b.device, w.v_b.device};
  a.T = T;
  a.H = c.num_attention_heads;
  a.R = c.kv_lora_rank;
  a.d = c.qk_rope_head_dim;
  a.nope = c.qk_nope_head_dim;
  a.dv = c.v_head_dim;
  a.scale = static_cast<float>(c.softmax_scale());
  a.latents = dabsorbed_;
  a.latents_floats = floats("absorbed_q");
  a.expanded = dparts_;
  a.expanded_floats = floats("attention_parts");
  a.lse = dlse_;
  a.out_stride = c.num_attention_heads * c.v_head_dim;
  a.out = from(dout_, a.out_stride);
  a.bf16 = f_.plan.bf16_many_rows;
  return a;
}

}  // namespace tandem
