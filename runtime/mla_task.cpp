#include "runtime/mla_task.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tandem {

MlaTask::MlaTask(const MlaOnHost& mla, int layer, const Worker& w)
    : mla_(mla),
      f_(mla.f_),
      c_(mla.c_),
      layout_(LayoutOfKv(mla.c_, mla.f_.kv_type())),
      store_(mla.f_.kv[layer].host.data()),
      token_bytes_(cpu::KvRowBytes(layout_)),
      maps_(mla.f_, mla.f_.weights.layers[layer].attention, w.node,
            mla.f_.host.scratch(w) + mla.sizes_.worker() - mla.sizes_.expanded - mla.sizes_.maps) {
  const AttentionScratch& s = mla.sizes_;
  float* p = f_.host.scratch(w);
  const auto take = [&](std::int64_t floats) { return std::exchange(p, p + floats); };
  blocks_ = reinterpret_cast<const void**>(take(s.block_pointers));
  queries_ = take(s.tile_queries);
  sums_.out = take(s.tile_out);
  part_.out = take(s.tile_out);
  sums_.maximum = take(s.tile_state);
  sums_.sum = sums_.maximum + s.queries;
  part_.maximum = sums_.sum + s.queries;
  part_.sum = part_.maximum + s.queries;
  n_keys_ = reinterpret_cast<std::int32_t*>(part_.sum + s.queries);
  args_.scratch = take(s.kernel);
  args_.packed = take(s.packed);
  take(s.maps);
  expanded_ = take(s.expanded);
  args_.blocks = blocks_;
  args_.scale = static_cast<float>(c_.softmax_scale());
}

const std::byte* MlaTask::Block(std::int64_t t, std::int64_t block) const {
  const std::int32_t* table = f_.batch.tables.data() + f_.batch.table_start[t];
  return store_ + table[block] * kKvBlock * token_bytes_;
}

void MlaTask::Blocks(std::int64_t t, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first / kKvBlock; i * kKvBlock < last; ++i) blocks_[i] = Block(t, i);
}

// q~_h = W_UK[h]^T q_n,h, with the roped part behind it.
void MlaTask::Absorb(std::int64_t head, std::int64_t t0, std::int64_t t1, float* y,
                     std::int64_t y_stride) {
  const std::int64_t q_stride = mla_.q_.stride();
  const float* q = mla_.q_.row(t0) + head * c_.qk_head_dim();
  maps_.Absorb(head, q, q_stride, t1 - t0, y, y_stride);
  for (std::int64_t t = 0; t < t1 - t0; ++t) {
    std::copy_n(q + t * q_stride + c_.qk_nope_head_dim, c_.qk_rope_head_dim,
                y + t * y_stride + c_.kv_lora_rank);
  }
}

// o_h = W_UV[h] u_h
void MlaTask::Unabsorb(std::int64_t head, std::int64_t t0, std::int64_t t1, const float* u,
                       std::int64_t u_stride) {
  float* y = mla_.out_.row(t0) + head * c_.v_head_dim;
  maps_.Unabsorb(head, u, u_stride, t1 - t0, y, mla_.out_.stride());
}

void MlaTask::Shade(std::int64_t t, std::int64_t head0, std::int64_t count) const {
  mla_.out_.Shade(f_.host.kernels, t, head0 * c_.v_head_dim, count * c_.v_head_dim);
}

void MlaTask::Keys(const float* q, std::int64_t t0, std::int64_t t1, std::int64_t count,
                   std::int64_t first, std::int64_t last, const Part& part) {
  cpu::AttentionArgs& a = args_;
  a.q = q;
  a.q_stride = a.dk = c_.kv_width();
  a.n = (t1 - t0) * count;
  a.kv_type = layout_.type;
  a.token_bytes = token_bytes_;
  a.v_offset = 0;
  a.first_key = first;
  a.last_key = last;
  for (std::int64_t i = 0; i < a.n; ++i) n_keys_[i] = f_.batch.n_keys[t0 + i / count];
  a.n_keys = n_keys_;
  a.out_stride = a.dv = c_.kv_lora_rank;
  a.out = part.out;
  a.maximum = part.maximum;
  a.sum = part.sum;
  a.carry = false;
  mla_.attention_(a);
}

void MlaTask::Merge(const Part& part, float* maximum, float* sum, float* out) const {
  if (*part.sum == 0) return;  // saw nothing
  const std::int64_t R = c_.kv_lora_rank;
  if (*sum == 0) {
    *maximum = *part.maximum;
    *sum = *part.sum;
    std::copy_n(part.out, R, out);
    return;
  }
  const float top = std::max(*maximum, *part.maximum);
  const float mine = std::exp(*maximum - top);
  const float its = std::exp(*part.maximum - top);
  *maximum = top;
  *sum = *sum * mine + *part.sum * its;
  for (std::int64_t c = 0; c < R; ++c) out[c] = out[c] * mine + part.out[c] * its;
}

namespace {

void Divide(float* out, std::int64_t n, float sum) {
  const float inverse = 1.0F / sum;
  for (std::int64_t i = 0; i < n; ++i) out[i] *= inverse;
}

}  // namespace

// Rows of one run whose ranges are alike; their sums lie from row `tile0` of the tile on.
void MlaTask::AbsorbedRun(std::int64_t t0, std::int64_t t1, std::int64_t tile0,
                          std::int64_t count) {
  const std::int64_t R = c_.kv_lora_rank;
  const std::int64_t first_query = (t0 - tile0) * count;
  const std::int64_t n = (t1 - t0) * count;
  const std::int64_t range = RangeKeys(f_.batch.n_keys[t0]);
  const std::int64_t n_keys = f_.batch.n_keys[t1 - 1];
  const Part sums{sums_.out + first_query * R, sums_.maximum + first_query,
                  sums_.sum + first_query};
  std::fill_n(sums.sum, n, 0.0F);
  Blocks(t0, 0, n_keys);
  for (std::int64_t first = 0; first < n_keys; first += range) {
    Keys(queries_ + first_query * c_.kv_width(), t0, t1, count, first,
         std::min(n_keys, first + range), part_);
    for (std::int64_t i = 0; i < n; ++i) {
      Merge({part_.out + i * R, part_.maximum + i, part_.sum + i}, sums.maximum + i, sums.sum + i,
            sums.out + i * R);
    }
  }
  for (std::int64_t i = 0; i < n; ++i) Divide(sums.out + i * R, R, sums.sum[i]);
}

void MlaTask::Absorbed(std::int64_t t0, std::int64_t t1, std::int64_t head0, std::int64_t count) {
  const std::int64_t width = c_.kv_width();
  const std::int64_t R = c_.kv_lora_rank;
  for (std::int64_t i = 0; i < count; ++i) {
    Absorb(head0 + i, t0, t1, queries_ + i * width, count * width);
  }
  for (std::int64_t t = t0; t < t1;) {
    const std::int64_t end = mla_.SharedRangesEnd(t, t1);
    AbsorbedRun(t, end, t0, count);
    t = end;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    Unabsorb(head0 + i, t0, t1, sums_.out + i * R, count * R);
  }
  for (std::int64_t t = t0; t < t1; ++t) Shade(t, head0, count);
}

void MlaTask::AbsorbAll(std::int64_t head) {
  const std::int64_t width = c_.kv_width();
  float* of_node = mla_.absorbed_.data() + first_head() * f_.T() * width;  // [T, heads, width]
  Absorb(head, 0, f_.T(), of_node + (head - first_head()) * width, heads() * width);
}

// Of the node's first head.
MlaTask::Part MlaTask::PartAt(std::int64_t slot) const {
  const std::int64_t all = mla_.slots_ * c_.num_attention_heads;
  const std::int64_t i = first_head() * mla_.slots_ + slot * heads();
  float* states = mla_.states_.data();
  return {mla_.parts_.data() + i * c_.kv_lora_rank, states + i, states + all + i};
}

void MlaTask::Attend(const MlaOnHost::Piece& piece) {
  const std::int64_t n = heads();
  const std::int64_t width = c_.kv_width();
  const float* of_node = mla_.absorbed_.data() + first_head() * f_.T() * width;
  const std::int64_t rows = std::max<std::int64_t>(1, mla_.sizes_.queries / n);
  const std::int64_t count = std::min(n, mla_.sizes_.queries);
  Blocks(piece.t0, piece.first_key, piece.last_key);
  for (std::int64_t t = piece.t0; t < piece.t1; t += rows) {
    const std::int64_t end = std::min(piece.t1, t + rows);
    for (std::int64_t h = 0; h < n; h += count) {
      Part part = PartAt(piece.slot + t - piece.t0);
      part.out += h * c_.kv_lora_rank;
      part.maximum += h;
      part.sum += h;
      Keys(of_node + (t * n + h) * width, t, end, std::min(count, n - h), piece.first_key,
           piece.last_key, part);
    }
  }
}

void MlaTask::MergeAll(std::int64_t head) {
  const std::int64_t R = c_.kv_lora_rank;
  const std::int64_t h = head - first_head();
  std::fill_n(sums_.sum, f_.T(), 0.0F);
  for (const MlaOnHost::Piece& piece : mla_.pieces_) {  // a row's in rising order of keys
    for (std::int64_t t = piece.t0; t < piece.t1; ++t) {
      const Part part = PartAt(piece.slot + t - piece.t0);
      Merge({part.out + h * R, part.maximum + h, part.sum + h}, sums_.maximum + t, sums_.sum + t,
            sums_.out + t * R);
    }
  }
  for (std::int64_t t = 0; t < f_.T(); ++t) Divide(sums_.out + t * R, R, sums_.sum[t]);
  Unabsorb(head, 0, f_.T(), sums_.out, R);
  for (std::int64_t t = 0; t < f_.T(); ++t) Shade(t, head, 1);
}

}  // namespace tandem
