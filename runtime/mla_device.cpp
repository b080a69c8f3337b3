// MLA on the OpenCL device, in its absorbed form (DeepSeek-V2 section 2.1). Only enqueues.
#include <algorithm>

#include "memory/error.h"
#include "placement/attention_scratch.h"
#include "runtime/forward.h"

namespace tandem {

static_assert(kDeviceMlaParts == cl::kMlaParts);

void Attention::MlaOnDevice(int layer) {
  ProjectMla(layer);
  const std::int64_t rows = DeviceMlaRows(f_.config, f_.plan.max_rows);
  for (std::int64_t t = 0; t < f_.T(); t += rows) {
    AttendMla(layer, t, std::min(rows, f_.T() - t));
  }
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
void Attention::AttendMla(int layer, std::int64_t t0, std::int64_t T) {
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

}  // namespace tandem
