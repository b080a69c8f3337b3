// MLA on the OpenCL device: in its absorbed form (DeepSeek-V2 section 2.1), and many rows of one
// sequence in its expanded form. Only enqueues.
#include <algorithm>
#include <numeric>

#include "memory/error.h"
#include "placement/attention_scratch.h"
#include "runtime/forward.h"

namespace tandem {

static_assert(kDeviceMlaParts == cl::kMlaParts);

namespace {

// Of rows [t0, t0 + T) in a buffer of the KV cache.
std::int64_t MaxKeys(const KvPart& part, std::int64_t t0, std::int64_t T) {
  return std::ranges::max(
      part.n_keys.subspan(static_cast<std::size_t>(t0), static_cast<std::size_t>(T)));
}

// The buffer of the KV cache that has all keys of row t, or their number where none has.
std::size_t PartWithAll(const Batch& batch, std::int64_t t) {
  const auto row = static_cast<std::size_t>(t);
  std::size_t i = 0;
  while (i < batch.kv_parts.size() && batch.kv_parts[i].n_keys[row] != batch.n_keys[row]) ++i;
  return i;
}

}  // namespace

void Attention::MlaOnDevice(int layer) {
  ProjectMla(layer);
  // Partial results of keys in several buffers share the room of a row's.
  const std::int64_t rows =
      std::max<std::int64_t>(1, DeviceMlaRows(f_.config, f_.plan) / std::ssize(f_.batch.kv_parts));
  std::int64_t absorbed = 0;  // rows from here on wait for their launches
  const auto flush = [&](std::int64_t end) {
    for (; absorbed < end; absorbed = std::min(end, absorbed + rows)) {
      AbsorbedMla(layer, absorbed, std::min(rows, end - absorbed));
    }
  };
  for (std::int64_t t = 0; t < f_.T();) {
    const std::int64_t end = MlaRunEnd(t);
    const std::size_t part = PartWithAll(f_.batch, end - 1);
    const bool whole = part < f_.batch.kv_parts.size();
    if (f_.plan.bf16_many_rows && whole && end - t >= LeastExpandedRows(f_.config)) {
      const cl::MlaExpandedArgs a = MlaExpandedOf(layer, part, t, end - t);
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
  down.fp8 = f_.plan.f8_many_rows;
  down.work = work_;
  k.Linear(down);
  for (std::size_t i = 0; i < f_.batch.kv_parts.size() && !AppendsWithQuery(); ++i) {
    if (std::ranges::max(f_.batch.kv_parts[i].slots) >= 0) k.MlaAppend(MlaAppendOf(layer, i));
  }
  if (!low_rank) return;
  cl::LinearArgs up{dq_a_, c.q_lora_rank, w.q_b.device, dq_, q_width, T, false};
  up.norm = {w.q_a_norm.device, eps, dq_a_normed_, c.q_lora_rank};
  up.bf16 = down.bf16;
  up.fp8 = down.fp8;
  up.work = work_;
  k.Linear(up);
}

// That one launch makes the queries of the step and appends its keys.
bool Attention::AppendsWithQuery() const {
  return f_.batch.kv_parts.size() == 1 && f_.T() <= kDeviceMlaAppendRows &&
         f_.T() <= DeviceMlaRows(f_.config, f_.plan) && f_.T() < LeastExpandedRows(f_.config);
}

// This step's rows of the cache's buffer `part`.
cl::MlaAppendArgs Attention::MlaAppendOf(int layer, std::size_t part) const {
  const Config& c = f_.config;
  const Vector& norm = f_.weights.layers[layer].attention.kv_a_norm;
  return {dz_,
          c.kv_width(),
          norm.device,
          static_cast<float>(c.rms_norm_eps),
          c.kv_lora_rank,
          c.qk_rope_head_dim,
          f_.batch.device_cos_sin,
          f_.kv[layer].device[part].get(),
          f_.kv_type(),
          f_.batch.kv_parts[part].device_slots,
          f_.T()};
}

// Runs of keys in each buffer of the KV cache that has keys of rows [t0, t0 + T), 0 in others.
std::vector<std::int64_t>& Attention::MlaRuns(std::int64_t t0, std::int64_t T) {
  const std::int64_t H = f_.config.num_attention_heads;
  const std::int64_t rows = DeviceMlaRows(f_.config, f_.plan);
  const std::int64_t room = std::min(cl::kMostMlaSplits, (kDeviceMlaParts + rows * H) / (T * H));
  mla_runs_.assign(f_.batch.kv_parts.size(), 0);
  for (std::size_t i = 0; i < mla_runs_.size(); ++i) {
    const std::int64_t keys = MaxKeys(f_.batch.kv_parts[i], t0, T);
    if (keys == 0) continue;
    const std::int64_t runs = cl::MlaSplits(T, H, keys, f_.device->device.info().compute_units);
    mla_runs_[i] = std::min(runs, room / std::ssize(mla_runs_));
    TANDEM_CHECK(mla_runs_[i] > 0);
  }
  return mla_runs_;
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
  const cl::MlaAppendArgs append = MlaAppendOf(layer, 0);
  const cl::MlaQueryArgs query{from(dq_, H * c.qk_head_dim()),
                               H * c.qk_head_dim(),
                               heads,
                               from(f_.batch.device_cos_sin, d),
                               dabsorbed_,
                               T,
                               H,
                               R,
                               d,
                               c.qk_nope_head_dim,
                               c.v_head_dim,
                               f_.plan.bf16_many_rows,
                               AppendsWithQuery() ? &append : nullptr};
  cl::MlaAttentionArgs a;
  a.q = dabsorbed_;
  a.kv_type = f_.kv_type();
  a.T = T;
  a.H = H;
  a.R = R;
  a.d = d;
  a.scale = static_cast<float>(c.softmax_scale());
  a.parts = dparts_;
  a.lse = dlse_;
  a.bf16 = f_.plan.bf16_many_rows;
  const std::vector<std::int64_t>& runs = MlaRuns(t0, T);
  a.row_splits = std::accumulate(runs.begin(), runs.end(), std::int64_t{0});
  const cl::MlaOutputArgs output{dparts_,
                                 dlse_,
                                 a.row_splits,
                                 heads,
                                 from(dout_, H * c.v_head_dim),
                                 H * c.v_head_dim,
                                 T,
                                 H,
                                 R,
                                 c.qk_nope_head_dim,
                                 c.v_head_dim,
                                 a.bf16};
  const auto take_part = [&](std::size_t i) {
    const KvPart& part = f_.batch.kv_parts[i];
    a.kv = f_.kv[layer].device[i].get();
    a.tables = part.device_tables;
    a.table_start = from(part.device_table_start, 1);
    a.n_keys = from(part.device_n_keys, 1);
    a.max_keys = MaxKeys(part, t0, T);
    a.splits = runs[i];
  };
  if (AppendsWithQuery()) {
    take_part(0);
    if (k.MlaOneRow(query, a, output)) return;
  }
  k.MlaQuery(query);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i] == 0) continue;
    take_part(i);
    k.MlaAttention(a);
    a.parts.offset += runs[i] * R;
    a.lse.offset += runs[i];
  }
  k.MlaOutput(output);
}

// Rows [t0, t0 + T) of one sequence, all of whose keys are in one buffer of the cache. Keys and
// values take the room of the absorbed form's queries and partial results.
cl::MlaExpandedArgs Attention::MlaExpandedOf(int layer, std::size_t part, std::int64_t t0,
                                             std::int64_t T) const {
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
  const KvPart& keys = f_.batch.kv_parts[part];
  a.kv = f_.kv[layer].device[part].get();
  a.kv_type = f_.kv_type();
  a.tables = keys.device_tables;
  a.tables.offset += keys.table_start[t0];
  a.n_keys = from(keys.device_n_keys, 1);
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
