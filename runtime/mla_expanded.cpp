// The expanded form of MLA (DeepSeek-V2 section 2.1.2 before the absorption): one head's keys and
// values are made of the cached latent, some keys at a time, for all rows of a ticket.
#include <algorithm>
#include <utility>

#include "placement/scratch.h"
#include "runtime/mla_task.h"

namespace tandem {

// The parts of AttentionScratch::expanded.
struct MlaTask::Room {
  Room(const Config& c, float* memory) : stride((c.kv_width() + 31) / 32 * 32) {
    float* p = memory;
    const auto take = [&](std::int64_t floats) { return std::exchange(p, p + WholeLines(floats)); };
    head = take(HeadMaps::HeadFloats(c));
    latent = take(kExpandedKeys * stride);
    latent_bf16 = reinterpret_cast<std::uint16_t*>(take(kExpandedKeys * stride / 2));
    latent_q8 = take(QuantizedFloats(kExpandedKeys * stride));
    made = take(kExpandedKeys * std::max(c.qk_nope_head_dim, c.v_head_dim));
    rows = take(kExpandedKeys * (c.qk_head_dim() + c.v_head_dim));
    state = p;
  }

  std::int64_t stride;         // between latents
  float* head;                 // HeadMaps::DecodeHead
  float* latent;               // [keys, stride]
  std::uint16_t* latent_bf16;  // the same
  float* latent_q8;
  float* made;   // [keys, nope or v] on the way to bf16
  float* rows;   // [keys, nope + rope + v] in f32 or bf16
  float* state;  // [rows] maxima, then sums
};

// The latent and roped keys [first, last) of row t's sequence, in the forms that the products take.
HostRows MlaTask::Latents(const Room& room, std::int64_t t, std::int64_t first,
                          std::int64_t last) const {
  const cpu::KernelTable& k = f_.host.kernels;
  const HostActivation all(room.latent, rounds() ? room.latent_bf16 : nullptr,
                           maps_.TakesQuantized() ? room.latent_q8 : nullptr,
                           kExpandedKeys * room.stride, room.stride);
  const bool f32 = !rounds() || maps_.TakesQuantized() || !maps_.TakesBf16(last - first);
  for (std::int64_t j = first; j < last; j += kKvBlock) {
    cpu::KvDecodeArgs a{layout_, Block(t, j / kKvBlock), std::min(kKvBlock, last - j)};
    a.out_stride = room.stride;
    a.out = room.latent + (j - first) * room.stride;
    if (f32) k.kv_decode(a);
    if (!rounds()) continue;
    a.out = room.latent_bf16 + (j - first) * room.stride;
    a.out_type = DType::kBF16;
    k.kv_decode(a);
  }
  if (maps_.TakesQuantized()) {
    for (std::int64_t j = 0; j < last - first; ++j) all.Shade(k, j, 0, c_.kv_lora_rank);
  }
  return all.rows();
}

// K and V of one head for keys [first, last), as rows [nope, rope, v].
void MlaTask::ExpandKeys(const Room& room, std::int64_t t, std::int64_t head, std::int64_t first,
                         std::int64_t last) {
  const std::int64_t nope = c_.qk_nope_head_dim;
  const std::int64_t rope = c_.qk_rope_head_dim;
  const std::int64_t v = c_.v_head_dim;
  const std::int64_t n = last - first;
  const std::int64_t row = nope + rope + v;
  const HostRows latents = Latents(room, t, first, last);
  if (!rounds()) {
    maps_.ExpandKeys(head, room.head, latents, n, room.rows, row);
    maps_.ExpandValues(head, latents, n, room.rows + nope + rope, row);
    for (std::int64_t j = 0; j < n; ++j) {
      std::copy_n(room.latent + j * room.stride + c_.kv_lora_rank, rope,
                  room.rows + j * row + nope);
    }
    return;
  }
  auto* rows = reinterpret_cast<std::uint16_t*>(room.rows);
  const auto round = [&](std::int64_t j, std::int64_t width, std::int64_t at) {
    f_.host.kernels.to_bf16({room.made + j * width, rows + j * row + at, width});
  };
  maps_.ExpandKeys(head, room.head, latents, n, room.made, nope);
  for (std::int64_t j = 0; j < n; ++j) {
    round(j, nope, 0);
    std::copy_n(room.latent_bf16 + j * room.stride + c_.kv_lora_rank, rope, rows + j * row + nope);
  }
  maps_.ExpandValues(head, latents, n, room.made, v);
  for (std::int64_t j = 0; j < n; ++j) round(j, v, nope + rope);
}

void MlaTask::Expanded(std::int64_t t0, std::int64_t t1, std::int64_t head) {
  const Room room(c_, expanded_);
  const std::int64_t v = c_.v_head_dim;
  const std::int64_t bytes = rounds() ? 2 : 4;
  cpu::AttentionArgs& a = args_;
  a.n = t1 - t0;
  a.q = mla_.q_.row(t0) + head * c_.qk_head_dim();
  a.q_stride = mla_.q_.stride();
  a.kv_type = rounds() ? DType::kBF16 : DType::kF32;
  a.dk = a.v_offset = c_.qk_head_dim();
  a.dv = v;
  a.token_bytes = (a.dk + a.dv) * bytes;
  a.n_keys = f_.batch.n_keys.data() + t0;
  a.out = mla_.out_.row(t0) + head * v;
  a.out_stride = mla_.out_.stride();
  a.maximum = room.state;
  a.sum = room.state + a.n;
  maps_.DecodeHead(head, rounds(), room.head);
  const std::int64_t n_keys = f_.batch.n_keys[t1 - 1];
  for (std::int64_t first = 0; first < n_keys; first += kExpandedKeys) {
    a.first_key = first;
    a.last_key = std::min(n_keys, first + kExpandedKeys);
    a.carry = first > 0;
    ExpandKeys(room, t0, head, first, a.last_key);
    for (std::int64_t j = 0; j < kExpandedKeys; j += kKvBlock) {
      const auto* rows = reinterpret_cast<const std::byte*>(room.rows);
      if (first + j < n_keys) blocks_[(first + j) / kKvBlock] = rows + j * a.token_bytes;
    }
    mla_.attention_(a);
  }
  for (std::int64_t t = t0; t < t1; ++t) {
    float* out = mla_.out_.row(t) + head * v;
    const float inverse = 1.0F / a.sum[t - t0];
    for (std::int64_t i = 0; i < v; ++i) out[i] *= inverse;
    Shade(t, head, 1);
  }
}

}  // namespace tandem
