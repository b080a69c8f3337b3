// Attention with heads of their own (MHA) on the OpenCL device, and what both kinds begin and end
// with. Only enqueues.
#include <algorithm>

#include "runtime/forward.h"

namespace tandem {
namespace {

cl::Span At(const cl::Span& s, std::int64_t elements) { return {s.buffer, s.offset + elements}; }

}  // namespace

void Attention::RunOnDevice(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  c.attention == AttentionKind::kMha ? MhaOnDevice(layer) : MlaOnDevice(layer);
  const std::int64_t out_width = c.num_attention_heads * c.v_head_dim;
  cl::LinearArgs out{dout_, out_width, w.o.device, f_.x.on_device(), D, f_.T(), true};
  out.bf16 = f_.plan.bf16_many_rows;
  out.fp8 = f_.plan.f8_many_rows;
  out.work = work_;
  f_.device->kernels.Linear(out);
  for (const Matrix* m :
       {&w.q, &w.q_a, &w.q_b, &w.kv_a, &w.kv_b, &w.k_b, &w.v_b, &w.k, &w.v, &w.o}) {
    if (*m) f_.device->metrics.device_weight_bytes += m->info->bytes();
  }
}

void Attention::MhaOnDevice(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  const std::int64_t T = f_.T();
  const std::int64_t H = c.num_attention_heads;
  const std::int64_t width = c.kv_width();
  const std::int64_t d = c.v_head_dim;
  cl::Kernels& k = f_.device->kernels;
  cl::LinearArgs q{f_.x.on_device(), D, w.q.device, dq_, H * d, T, false};
  q.norm = {w.input_norm.device, static_cast<float>(c.rms_norm_eps), f_.h_device, D};
  q.w2 = w.k.device;
  q.y2 = dz_;
  q.y2_stride = width;
  q.bf16 = f_.plan.bf16_many_rows;
  q.fp8 = f_.plan.f8_many_rows;
  q.work = work_;
  k.Linear(q);
  cl::LinearArgs v{f_.h_device, D, w.v.device, At(dz_, width / 2), width, T, false};
  v.bf16 = q.bf16;
  v.fp8 = q.fp8;
  v.work = work_;
  k.Linear(v);
  k.Rope({dq_, H * d, d, H, c.qk_rope_head_dim, f_.batch.device_cos_sin, false, T});
  k.Rope({dz_, width, d, c.num_key_value_heads, c.qk_rope_head_dim, f_.batch.device_cos_sin, false,
          T});
  cl::AttentionArgs a;
  a.q = dq_;
  a.q_row_stride = a.out_row_stride = H * d;
  a.q_head_stride = a.k_head_stride = a.v_head_stride = a.out_head_stride = d;
  a.kv_type = f_.kv_type();
  a.width = width;
  a.v_offset = width / 2;
  a.out = dout_;
  a.T = T;
  a.heads = H;
  a.dk = a.dv = d;
  a.scale = static_cast<float>(c.softmax_scale());
  AttendMha(layer, a);
}

// Appends this step's rows to the KV cache and attends to it, buffer by buffer.
void Attention::AttendMha(int layer, cl::AttentionArgs& a) {
  cl::Kernels& k = f_.device->kernels;
  const std::vector<KvPart>& parts = f_.batch.kv_parts;
  if (parts.size() > 1) {
    a.share = cl::AttentionShare::kFirst;
    a.lse = dlse_;
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (std::ranges::max(parts[i].n_keys) == 0) continue;
    a.kv = f_.kv[layer].device[i].get();
    a.tables = parts[i].device_tables;
    a.table_start = parts[i].device_table_start;
    a.n_keys = parts[i].device_n_keys;
    k.KvAppend({dz_, a.width, a.kv, a.kv_type, a.width, parts[i].device_slots, a.T});
    k.Attention(a);
    if (parts.size() > 1) a.share = cl::AttentionShare::kNext;
  }
}

}  // namespace tandem
