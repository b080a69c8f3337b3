#include "runtime/head_maps.h"

#include <algorithm>
#include <cstring>

#include "cpu_kernels/panel.h"
#include "memory/blocks.h"
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

void HeadMaps::Product(const Matrix& w, const HostShard& shard, std::int64_t row, std::int64_t n,
                       const HostRows& x, std::int64_t T, float* y, std::int64_t y_stride) const {
  const std::int64_t r0 = row - shard.row0;
  cpu::LinearArgs a = ShardArgs(shard, w, r0, r0 + n);
  a.y = y;
  a.y_stride = y_stride;
  a.T = T;
  CallLinear(f_.host, w, x, a);
}

void HeadMaps::Linear(const Matrix& w, const HostShard& shard, std::int64_t row, std::int64_t n,
                      const float* x, std::int64_t x_stride, std::int64_t T, float* y,
                      std::int64_t y_stride) const {
  Product(w, shard, row, n, Rows(w, x, x_stride, T), T, y, y_stride);
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

std::int64_t HeadMaps::HeadFloats(const Config& c) {
  return (c.kv_lora_rank + kPanelRows) * c.qk_nope_head_dim;
}

void HeadMaps::DecodeHead(std::int64_t head, bool bf16, float* room) const {
  if (k_b_ == nullptr) return;
  const std::int64_t R = c_.kv_lora_rank;
  const std::int64_t nope = c_.qk_nope_head_dim;
  const DType type = w_.k_b.dtype();
  float* some = room + R * nope;  // [16, nope]
  auto* rounded = reinterpret_cast<std::uint16_t*>(room);
  for (std::int64_t r0 = 0; r0 < R; r0 += kPanelRows) {
    const std::int64_t row = head * R + r0 - k_b_->row0;
    const std::int64_t n = std::min(kPanelRows, R - r0);
    const std::byte* w = k_b_->data + DataBytes(type, row * nope);
    if (IsBlockFormat(type)) {
      cpu::DecodePanel(type, w, nope, some);
    } else {
      f_.host.kernels.widen({w, type, some, n * nope});
    }
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t i = 0; i < nope; ++i) {
        const float value = some[r * nope + i];
        if (bf16) rounded[i * R + r0 + r] = F32ToBf16(value);
        if (!bf16) room[i * R + r0 + r] = value;
      }
    }
  }
}

void HeadMaps::ExpandKeys(std::int64_t head, const float* room, const HostRows& c, std::int64_t n,
                          float* y, std::int64_t y_stride) const {
  const std::int64_t nope = c_.qk_nope_head_dim;
  if (kv_b_ != nullptr) {
    return Product(w_.kv_b, *kv_b_, head * head_rows(), nope, c, n, y, y_stride);
  }
  const DType type = c.bf16 != nullptr ? DType::kBF16 : DType::kF32;
  const auto& kernels = f_.host.kernels;
  const cpu::ManyRows& many = kernels.many[static_cast<int>(type)];
  cpu::LinearArgs a;
  a.x = c.bf16 != nullptr ? static_cast<const void*>(c.bf16) : c.f32;
  a.x_type = type;
  a.x_stride = c.stride;
  a.w = room;
  a.y = y;
  a.y_stride = y_stride;
  a.T = n;
  a.K = c_.kv_lora_rank;
  a.n1 = nope;
  const bool suits = many.For(n) && many.x_type == type;
  (suits ? many.linear : kernels.linear[static_cast<int>(type)])(a);
}

void HeadMaps::ExpandValues(std::int64_t head, const HostRows& c, std::int64_t n, float* y,
                            std::int64_t y_stride) const {
  const std::int64_t v = c_.v_head_dim;
  if (v_b_ != nullptr) return Product(w_.v_b, *v_b_, head * v, v, c, n, y, y_stride);
  const std::int64_t row = head * head_rows() + c_.qk_nope_head_dim;
  Product(w_.kv_b, *kv_b_, row, v, c, n, y, y_stride);
}

bool HeadMaps::TakesBf16(std::int64_t n) const {
  const Matrix& w = kv_b_ != nullptr ? w_.kv_b : w_.v_b;
  const cpu::ManyRows& many = f_.host.kernels.many[static_cast<int>(w.dtype())];
  return many.For(n) && many.x_type == DType::kBF16;
}

bool HeadMaps::TakesQuantized() const {
  const Matrix& w = kv_b_ != nullptr ? w_.kv_b : w_.v_b;
  const cpu::ManyRows& many = f_.host.kernels.many[static_cast<int>(w.dtype())];
  const bool bf16 = many.linear != nullptr && many.x_type == DType::kBF16;
  return IsBlockFormat(w.dtype()) && !bf16;
}

}  // namespace tandem
