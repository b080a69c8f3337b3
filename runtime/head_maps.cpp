#include "runtime/head_maps.h"

#include <algorithm>
#include <cstring>

#include "memory/error.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

const HostShard* ShardOfNode(const Matrix& m, int node) {
  for (const HostShard& s : m.shards) {
    if (s.node == node) return &s;
  }
  return nullptr;
}

}  // namespace

HeadMaps::HeadMaps(const Forward& f, const AttentionWeights& w, int node, float* scratch)
    : f_(f), c_(f.config), w_(w), scratch_(scratch) {
  kv_b_ = ShardOfNode(w.kv_b, node);
  k_b_ = ShardOfNode(w.k_b, node);
  v_b_ = ShardOfNode(w.v_b, node);
  if (kv_b_ != nullptr) {
    first_ = kv_b_->row0 / head_rows();
    last_ = kv_b_->row1 / head_rows();
  } else if (k_b_ != nullptr) {
    first_ = k_b_->row0 / c_.kv_lora_rank;
    last_ = k_b_->row1 / c_.kv_lora_rank;
    TANDEM_CHECK(v_b_ != nullptr && v_b_->row0 == first_ * c_.v_head_dim &&
                 v_b_->row1 == last_ * c_.v_head_dim);
  }
}

std::int64_t HeadMaps::ScratchFloats(const Config& c, std::int64_t rows) {
  return c.attention == AttentionKind::kMla ? HeadMapFloats(c, rows) : 0;
}

HostRows HeadMaps::Rows(const Matrix& w, const float* x, std::int64_t x_stride,
                        std::int64_t T) const {
  HostRows rows;
  rows.f32 = x;
  rows.stride = x_stride;
  if (!IsBlockFormat(w.dtype()) || f_.plan.precision == Precision::kExact) return rows;
  const std::int64_t K = w.cols();
  const std::int64_t values = T * K;
  float* bf16 = scratch_ + WholeLines(values);
  const HostActivation copy(scratch_, reinterpret_cast<std::uint16_t*>(bf16),
                            bf16 + WholeLines((values + 1) / 2), values, K);
  for (std::int64_t t = 0; t < T; ++t) {
    std::copy_n(x + t * x_stride, K, copy.row(t));
    copy.Shade(f_.host.kernels, t, 0, K);
  }
  return copy.rows();
}

void HeadMaps::Linear(const Matrix& w, const HostShard& shard, std::int64_t row, std::int64_t n,
                      const float* x, std::int64_t x_stride, std::int64_t T, float* y,
                      std::int64_t y_stride) const {
  const std::int64_t r0 = row - shard.row0;
  cpu::LinearArgs a = ShardArgs(shard, w, r0, r0 + n);
  a.y = y;
  a.y_stride = y_stride;
  a.T = T;
  CallLinear(f_.host, w, Rows(w, x, x_stride, T), a);
}

void HeadMaps::Absorb(std::int64_t head, const float* q, std::int64_t q_stride, std::int64_t T,
                      float* y, std::int64_t y_stride) const {
  if (k_b_ != nullptr) {
    const std::int64_t R = c_.kv_lora_rank;
    return Linear(w_.k_b, *k_b_, head * R, R, q, q_stride, T, y, y_stride);
  }
  cpu::LinearTransposedArgs a;
  a.x = q;
  a.x_stride = q_stride;
  a.w = kv_b_->data;
  a.w_scale = kv_b_->scale;
  a.scale_stride = w_.kv_b.info->scale_cols();
  a.y = y;
  a.y_stride = y_stride;
  a.T = T;
  a.n0 = head * head_rows() - kv_b_->row0;
  a.N = c_.qk_nope_head_dim;
  a.C = c_.kv_lora_rank;
  f_.host.kernels.linear_transposed[static_cast<int>(w_.kv_b.dtype())](a);
}

void HeadMaps::Unabsorb(std::int64_t head, const float* u, std::int64_t u_stride, std::int64_t T,
                        float* y, std::int64_t y_stride) const {
  const std::int64_t v = c_.v_head_dim;
  if (v_b_ != nullptr) return Linear(w_.v_b, *v_b_, head * v, v, u, u_stride, T, y, y_stride);
  const std::int64_t row = head * head_rows() + c_.qk_nope_head_dim;
  Linear(w_.kv_b, *kv_b_, row, v, u, u_stride, T, y, y_stride);
}

}  // namespace tandem
