#pragma once

#include "cpu_kernels/amx/attention_rows.h"
#include "cpu_kernels/amx/attention_task.h"

// Queries, keys and values brought into tiles of bf16. In an unnamed namespace, so that no symbol
// leaves an object file.

namespace tandem::cpu::amx {
namespace {

// With the scale, so that products are scores.
void PackQueries(const Task& t) {
  const __m512 scale = _mm512_set1_ps(t.a.scale);
  for (std::int64_t g = 0; g < t.groups; ++g) {
    std::uint16_t* tile = t.packed + g * t.key_steps * kTile / 2;
    for (std::int64_t k = 0; k < t.a.dk; k += 32, tile += kTile / 2) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const std::int64_t query = g * kGroup + i;
        const float* q = t.a.q + Min(query, t.a.n - 1) * t.a.q_stride + k;
        rows[i] = RoundPair(_mm512_mul_ps(LoadF32(q, t.a.dk - k), scale),
                            _mm512_mul_ps(LoadF32(q + 16, t.a.dk - k - 16), scale));
      }
      Transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(tile + i * 32, rows[i]);
    }
  }
}

// Values of two neighbouring keys, column by column, into row `pair` of a step's tiles.
TANDEM_INLINE void InterleaveValues(const std::uint16_t* even, const std::uint16_t* odd,
                                    std::int64_t dv, std::uint16_t* tiles, std::int64_t pair) {
  const __m512i spread = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const auto load = [&](const std::uint16_t* p, std::int64_t c) {
    if (p == nullptr) return _mm512_setzero_si512();
    const __m512i v =
        dv - c >= 32
            ? _mm512_loadu_si512(p + c)
            : _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + c)));
    return _mm512_permutexvar_epi64(spread, v);
  };
  for (std::int64_t c = 0; c < dv; c += 32) {
    const __m512i a = load(even, c);
    const __m512i b = load(odd, c);
    std::uint16_t* tile = tiles + c / 16 * kTile / 2 + pair * 32;
    _mm512_storeu_si512(tile, _mm512_unpacklo_epi16(a, b));
    if (dv - c >= 32) _mm512_storeu_si512(tile + kTile / 2, _mm512_unpackhi_epi16(a, b));
  }
}

// One token's keys into their place, and where its values lie in bf16; `room` holds values that do
// not lie in front of the keys.
TANDEM_INLINE const std::uint16_t* PrepareToken(const Task& t, std::int64_t j,
                                                std::uint16_t* room) {
  if (j >= t.tokens) return nullptr;
  const std::uint8_t* row = t.block[j / kKvBlockTokens] + j % kKvBlockTokens * t.a.token_bytes;
  if (!t.in_place) {
    std::uint16_t* key = t.keys + j * t.key_steps * 32;
    RoundRow(t.layout, row, t.a.k_offset, t.a.dk, key);
    if (t.a.v_offset == t.a.k_offset && t.a.dv <= t.a.dk) return key;
  }
  if (t.a.kv_type == DType::kBF16)
    return reinterpret_cast<const std::uint16_t*>(row) + t.a.v_offset;
  RoundRow(t.layout, row, t.a.v_offset, t.a.dv, room);
  return room;
}

void PrepareKeys(Task& t, std::int64_t j0) {
  t.j0 = j0;
  t.tokens = Min(kAttentionKeys, t.a.last_key - j0);
  for (std::int64_t i = 0; i * kKvBlockTokens < t.tokens; ++i) {
    t.block[i] = static_cast<const std::uint8_t*>(t.a.blocks[j0 / kKvBlockTokens + i]);
  }
  auto* room = reinterpret_cast<std::uint16_t*>(t.scores);  // free until the scores come
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    std::uint16_t* tiles = t.values + step * t.value_tiles * kTile / 2;
    for (std::int64_t pair = 0; pair < 16; ++pair) {
      const std::int64_t j = step * 32 + 2 * pair;
      const std::uint16_t* even = PrepareToken(t, j, room);
      InterleaveValues(even, PrepareToken(t, j + 1, room + kScores), t.a.dv, tiles, pair);
    }
  }
}

}  // namespace
}  // namespace tandem::cpu::amx
