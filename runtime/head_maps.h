#pragma once

#include <cstdint>

#include "runtime/forward.h"

namespace tandem {

// W_UK and W_UV of the heads that one node holds: the maps between MLA's heads and the latent space
// that they share. As one matrix kv_b (per head, nope rows of W_UK, then v rows of W_UV) or in two:
// k_b, where row h R + r is column r of W_UK[h], and v_b. Works in a worker's scratch only.
class HeadMaps {
 public:
  HeadMaps(const Forward& f, const AttentionWeights& w, int node, float* scratch);
  // For at most `rows` rows a call.
  static std::int64_t ScratchFloats(const Config& c, std::int64_t rows);

  // Heads [first, last) lie on this node.
  std::int64_t first() const { return first_; }
  std::int64_t last() const { return last_; }

  // y[t, :] = W_UK[head]^T q[t, :] for T queries of `nope` values: R values each.
  void Absorb(std::int64_t head, const float* q, std::int64_t q_stride, std::int64_t T, float* y,
              std::int64_t y_stride) const;
  // y[t, :] = W_UV[head] u[t, :] for T vectors of the latent space: v values each.
  void Unabsorb(std::int64_t head, const float* u, std::int64_t u_stride, std::int64_t T, float* y,
                std::int64_t y_stride) const;

  // For the expanded form. W_UK of a k_b has to be brought into rows first: HeadFloats floats, as
  // bf16 where `bf16`. A kv_b needs nothing.
  static std::int64_t HeadFloats(const Config& c);
  void DecodeHead(std::int64_t head, bool bf16, float* room) const;
  // y[j, :] = W_UK[head] c[j, :], W_UV[head] c[j, :] for n latents, whose strides are whole blocks.
  // `room` holds what DecodeHead made for the form of c.
  void ExpandKeys(std::int64_t head, const float* room, const HostRows& c, std::int64_t n, float* y,
                  std::int64_t y_stride) const;
  void ExpandValues(std::int64_t head, const HostRows& c, std::int64_t n, float* y,
                    std::int64_t y_stride) const;
  // Which forms of n latents those products take.
  bool TakesQuantized() const;
  bool TakesBf16(std::int64_t n) const;

 private:
  // x as rows of their own, with the shadows that products with w may take.
  HostRows Rows(const Matrix& w, const float* x, std::int64_t x_stride, std::int64_t T) const;
  void Product(const Matrix& w, const HostShard& shard, std::int64_t row, std::int64_t n,
               const HostRows& x, std::int64_t T, float* y, std::int64_t y_stride) const;
  void Linear(const Matrix& w, const HostShard& shard, std::int64_t row, std::int64_t n,
              const float* x, std::int64_t x_stride, std::int64_t T, float* y,
              std::int64_t y_stride) const;
  std::int64_t head_rows() const { return c_.qk_nope_head_dim + c_.v_head_dim; }

  const Forward& f_;
  const Config& c_;
  const AttentionWeights& w_;
  const HostShard* kv_b_ = nullptr;
  const HostShard* k_b_ = nullptr;
  const HostShard* v_b_ = nullptr;
  std::int64_t first_ = 0;
  std::int64_t last_ = 0;
  float* scratch_;
};

}  // namespace tandem
