// Attention on the OpenCL device: the same steps as on the CPU, each one launch. Only enqueues.
#include "runtime/forward.h"

namespace tandem {
namespace {

cl::Span At(const cl::Span& s, std::int64_t elements) { return {s.buffer, s.offset + elements}; }

}  // namespace

void Attention::RunOnDevice(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  const std::int64_t T = f_.T();
  cl::Kernels& k = f_.device->kernels;
  k.RmsNorm({f_.x.on_device(), D, w.input_norm.device, f_.h_device, D, T, D,
             static_cast<float>(c.rms_norm_eps)});
  ProjectOnDevice(layer);
  AttendOnDevice(layer);
  const std::int64_t out_width = c.num_attention_heads * c.v_head_dim;
  k.Linear({dout_, out_width, w.o.device, f_.x.on_device(), D, T, true});
  for (const Matrix* m : {&w.q, &w.q_a, &w.q_b, &w.kv_a, &w.kv_b, &w.k, &w.v, &w.o}) {
    if (*m) f_.device->metrics.device_weight_bytes += m->info->bytes();
  }
}

void Attention::ProjectOnDevice(int layer) {
  const AttentionWeights& w = f_.weights.layers[layer].attention;
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  const std::int64_t T = f_.T();
  const std::int64_t width = c.kv_width();
  const std::int64_t q_width = c.num_attention_heads * c.qk_head_dim();
  const auto eps = static_cast<float>(c.rms_norm_eps);
  cl::Kernels& k = f_.device->kernels;
  const std::int64_t d = c.qk_rope_head_dim;
  if (c.attention == AttentionKind::kMha) {
    k.Linear({f_.h_device, D, w.q.device, dq_, q_width, T, false});
    k.Linear({f_.h_device, D, w.k.device, dz_, width, T, false});
    k.Linear({f_.h_device, D, w.v.device, At(dz_, width / 2), width, T, false});
    k.Rope({dq_, q_width, d, c.num_attention_heads, d, f_.batch.device_cos_sin, false, T});
    k.Rope({dz_, width, d, c.num_key_value_heads, d, f_.batch.device_cos_sin, false, T});
  } else {
    if (c.q_lora_rank == 0) {
      k.Linear({f_.h_device, D, w.q.device, dq_, q_width, T, false});
    } else {
      const std::int64_t r = c.q_lora_rank;
      k.Linear({f_.h_device, D, w.q_a.device, dq_a_, r, T, false});
      k.RmsNorm({dq_a_, r, w.q_a_norm.device, dq_a_, r, T, r, eps});
      k.Linear({dq_a_, r, w.q_b.device, dq_, q_width, T, false});
    }
    k.Linear({f_.h_device, D, w.kv_a.device, dz_, width, T, false});
    k.RmsNorm({dz_, width, w.kv_a_norm.device, dz_, width, T, c.kv_lora_rank, eps});
    k.Rope({At(dz_, c.kv_lora_rank), width, d, 1, d, f_.batch.device_cos_sin, true, T});
    k.Rope({At(dq_, c.qk_nope_head_dim), q_width, c.qk_head_dim(), c.num_attention_heads, d,
            f_.batch.device_cos_sin, true, T});
  }
  k.KvAppend(
      {dz_, width, f_.kv[layer].device.get(), f_.kv_type(), width, f_.batch.device_slots, T});
}

void Attention::AttendOnDevice(int layer) {
  const Matrix& kv_b = f_.weights.layers[layer].attention.kv_b;
  const Config& c = f_.config;
  const std::int64_t T = f_.T();
  const std::int64_t H = c.num_attention_heads;
  const std::int64_t width = c.kv_width();
  const std::int64_t R = c.kv_lora_rank;
  const std::int64_t dv = c.v_head_dim;
  cl::Kernels& k = f_.device->kernels;
  cl::AttentionArgs a;
  a.kv = f_.kv[layer].device.get();
  a.kv_type = f_.kv_type();
  a.width = width;
  a.tables = f_.batch.device_tables;
  a.table_start = f_.batch.device_table_start;
  a.n_keys = f_.batch.device_n_keys;
  a.T = T;
  a.heads = H;
  a.scale = static_cast<float>(c.softmax_scale());
  if (c.attention == AttentionKind::kMha) {
    a.q = dq_;
    a.q_row_stride = H * dv;
    a.q_head_stride = a.k_head_stride = a.v_head_stride = a.out_head_stride = dv;
    a.v_offset = width / 2;
    a.out = dout_;
    a.out_row_stride = H * dv;
    a.dk = a.dv = dv;
    return k.Attention(a);
  }
  const std::int64_t dq = c.qk_head_dim();
  const std::int64_t head_rows = c.qk_nope_head_dim + dv;
  k.HeadLinear({dq_, H * dq, dq, kv_b.device, head_rows, 0, c.qk_nope_head_dim, dabsorbed_,
                H * width, width, T, H, true});
  CopyRopedQuery();
  a.q = dabsorbed_;
  a.q_row_stride = H * width;
  a.q_head_stride = width;
  a.out = dlatent_;
  a.out_row_stride = H * R;
  a.out_head_stride = R;
  a.dk = width;
  a.dv = R;
  k.Attention(a);
  k.HeadLinear({dlatent_, H * R, R, kv_b.device, head_rows, c.qk_nope_head_dim, dv, dout_, H * dv,
                dv, T, H, false});
}

// The roped part of every head's query goes behind its absorbed part.
void Attention::CopyRopedQuery() {
  const Config& c = f_.config;
  const std::size_t rows = f_.T() * c.num_attention_heads;
  const std::size_t src_pitch = c.qk_head_dim() * sizeof(float);
  const std::size_t dst_pitch = c.kv_width() * sizeof(float);
  const std::size_t src_origin[] = {c.qk_nope_head_dim * sizeof(float), 0, 0};
  const std::size_t dst_origin[] = {c.kv_lora_rank * sizeof(float), 0, 0};
  const std::size_t region[] = {c.qk_rope_head_dim * sizeof(float), rows, 1};
  ClCheck(
      clEnqueueCopyBufferRect(f_.device->device.queue(), dq_.buffer, dabsorbed_.buffer, src_origin,
                              dst_origin, region, src_pitch, 0, dst_pitch, 0, 0, nullptr, nullptr),
      "clEnqueueCopyBufferRect");
}

}  // namespace tandem
