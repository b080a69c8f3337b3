#pragma once

#include <cstdint>

#include "cpu_kernels/attention.h"
#include "cpu_kernels/body.h"
#include "cpu_kernels/kv_rows_body.h"
#include "cpu_kernels/vector_body.h"

// The one body of the vectorised attention in f32; S as in linear_body.h, KV the element type of
// the cache. Blocks of 64 keys are the outer loop, so a block comes from memory once for all
// queries; where the queries share K and V (MLA, or one head's rows), several of them share every
// load too. Each score has one vector accumulator over dk and each output lane takes the keys in
// rising order, whatever the grouping.

namespace tandem::cpu {
namespace {

// Finite, so that a block of which a query sees nothing leaves its state as it was.
constexpr float kLowest = -3.0e38F;

// One block of keys and the queries [h, h + kHeads).
template <class S, class KV, int kHeads>
struct QueryGroup {
  using F = typename S::F;
  using Bits = typename KV::Bits;
  static constexpr std::int64_t kStep = 2 * S::kLanes;

  const AttentionArgs& a;
  const Bits* block;
  std::int64_t row;  // elements between tokens
  std::int64_t j0;   // the block's first key
  std::int64_t tokens;
  std::int64_t h;
  float* scores;  // [kHeads, 64]
  float rescale[kHeads];

  const Bits* Key(std::int64_t j) const {
    return block + j * row + a.k_offset + h * a.k_head_stride;
  }
  const Bits* Value(std::int64_t j) const {
    return block + j * row + a.v_offset + h * a.v_head_stride;
  }

  // A head of its own K and V takes a few cache lines from each of 64 rows far apart, which the CPU
  // does not see coming; the next head takes the lines that follow.
  TANDEM_INLINE static void PrefetchNextHead(const Bits* at, std::int64_t head_stride) {
    if constexpr (kHeads == 1) __builtin_prefetch(at + head_stride);
  }

  template <int kKeys>
  TANDEM_INLINE static void ScoreStep(const float* const (&q)[kHeads],
                                      const Bits* const (&keys)[kKeys], std::int64_t k,
                                      F (&sums)[kHeads][kKeys]) {
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const typename S::Pair key = KV::Decode(keys[j] + k);
#pragma GCC unroll 16
      for (int i = 0; i < kHeads; ++i) {
        sums[i][j] = S::Fma(S::Load(q[i] + k), key.low, sums[i][j]);
        sums[i][j] = S::Fma(S::Load(q[i] + k + S::kLanes), key.high, sums[i][j]);
      }
    }
  }

  template <int kKeys>
  TANDEM_INLINE void PrefetchKeys(const Bits* const (&keys)[kKeys], std::int64_t k) const {
    constexpr std::int64_t kPerLine = 64 / sizeof(Bits);
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 16
      for (std::int64_t i = 0; i < kStep; i += kPerLine) {
        PrefetchNextHead(keys[j] + k + i, a.k_head_stride);
      }
    }
  }

  template <int kKeys>
  TANDEM_INLINE void ScoreTail(const float* const (&q)[kHeads], const Bits* const (&keys)[kKeys],
                               std::int64_t k, F (&sums)[kHeads][kKeys]) const {
    Padded<float, kStep> q_tail[kHeads];
    Padded<Bits, kStep> key_tail[kKeys];
    const float* q_at[kHeads];
    const Bits* key_at[kKeys];
    for (int i = 0; i < kHeads; ++i) {
      q_tail[i].Fill(q[i] + k, a.dk - k);
      q_at[i] = q_tail[i].bits;
    }
    for (int j = 0; j < kKeys; ++j) {
      key_tail[j].Fill(keys[j] + k, a.dk - k);
      key_at[j] = key_tail[j].bits;
    }
    ScoreStep<kKeys>(q_at, key_at, 0, sums);
  }

  // kKeys keys at once; past the last token the last key is repeated and its scores are dropped.
  template <int kKeys>
  void ScoreKeys(std::int64_t j_first) {
    const float* q[kHeads];
    const Bits* keys[kKeys];
    F sums[kHeads][kKeys];
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) keys[j] = Key(Min(j_first + j, tokens - 1));
#pragma GCC unroll 16
    for (int i = 0; i < kHeads; ++i) {
      q[i] = a.q + (h + i) * a.q_stride;
#pragma GCC unroll 16
      for (int j = 0; j < kKeys; ++j) sums[i][j] = S::Zero();
    }
    const std::int64_t whole = a.dk / kStep * kStep;
    for (std::int64_t k = 0; k < whole; k += kStep) {
      PrefetchKeys<kKeys>(keys, k);
      ScoreStep<kKeys>(q, keys, k, sums);
    }
    if (whole < a.dk) ScoreTail<kKeys>(q, keys, whole, sums);
    for (int i = 0; i < kHeads; ++i) {
      for (int j = 0; j < kKeys && j_first + j < tokens; ++j) {
        scores[i * kKvBlockTokens + j_first + j] = a.scale * S::Sum(sums[i][j]);
      }
    }
  }

  std::int64_t Visible(int i) const {
    const std::int64_t seen = a.n_keys[h + i] - j0;
    return seen < 0 ? 0 : Min(seen, tokens);
  }

  // Scores of one query become exp(score - maximum); the old sum and outputs will be rescaled.
  void Exponentials(int i) {
    float* s = scores + i * kKvBlockTokens;
    float& maximum = a.maximum[h + i];
    for (std::int64_t j = Visible(i); j < kKvBlockTokens; ++j) s[j] = -__builtin_inff();
    F top = S::Set1(maximum);
    for (std::int64_t j = 0; j < kKvBlockTokens; j += S::kLanes) top = S::Max(top, S::Load(s + j));
    const float highest = S::Highest(top);
    F total = S::Zero();
    for (std::int64_t j = 0; j < kKvBlockTokens; j += S::kLanes) {
      const F p = Exp<S>(S::Sub(S::Load(s + j), S::Set1(highest)));
      S::Store(s + j, p);
      total = S::Add(total, p);
    }
    float factor[S::kLanes];
    S::Store(factor, Exp<S>(S::Set1(maximum - highest)));
    rescale[i] = factor[0];
    a.sum[h + i] = a.sum[h + i] * rescale[i] + S::Sum(total);
    maximum = highest;
  }

  // out[c ...] = out * rescale + sum_j p_j V_j for kVecs vectors of columns.
  template <int kVecs>
  void AddValues(std::int64_t c) {
    F sums[kHeads][kVecs];
#pragma GCC unroll 16
    for (int i = 0; i < kHeads; ++i) {
      const float* out = a.out + (h + i) * a.out_stride + c;
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        sums[i][v] = S::Mul(S::Load(out + v * S::kLanes), S::Set1(rescale[i]));
      }
    }
    for (std::int64_t j = 0; j < tokens; ++j) {
      const Bits* value = Value(j) + c;
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        PrefetchNextHead(value + v * S::kLanes, a.v_head_stride);
        const F vs = KV::One(value + v * S::kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < kHeads; ++i) {
          sums[i][v] = S::Fma(S::Set1(scores[i * kKvBlockTokens + j]), vs, sums[i][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kHeads; ++i) {
      float* out = a.out + (h + i) * a.out_stride + c;
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) S::Store(out + v * S::kLanes, sums[i][v]);
    }
  }

  // The last columns, fewer than a vector.
  void AddPartValues(std::int64_t c) {
    const std::int64_t count = a.dv - c;
    for (int i = 0; i < kHeads; ++i) {
      float* out = a.out + (h + i) * a.out_stride + c;
      F total = S::Mul(LoadPart<S>(out, count), S::Set1(rescale[i]));
      for (std::int64_t j = 0; j < tokens; ++j) {
        Padded<Bits, S::kLanes> part;
        part.Fill(Value(j) + c, count);
        total = S::Fma(S::Set1(scores[i * kKvBlockTokens + j]), KV::One(part.bits), total);
      }
      StorePart<S>(out, total, count);
    }
  }

  bool SeesNothing() const {
    for (int i = 0; i < kHeads; ++i) {
      if (Visible(i) > 0) return false;
    }
    return true;
  }

  template <int kKeys, int kVecs>
  void Run() {
    if (SeesNothing()) return;
    for (std::int64_t j = 0; j < tokens; j += kKeys) ScoreKeys<kKeys>(j);
    for (int i = 0; i < kHeads; ++i) Exponentials(i);
    constexpr std::int64_t kChunk = std::int64_t{kVecs} * S::kLanes;
    std::int64_t c = 0;
    for (; c + kChunk <= a.dv; c += kChunk) AddValues<kVecs>(c);
    for (; c + S::kLanes <= a.dv; c += S::kLanes) AddValues<1>(c);
    if (c < a.dv) AddPartValues(c);
  }
};

template <class S, class KV, int kHeads, int kKeys, int kVecs>
TANDEM_INLINE void RunGroup(const AttentionArgs& a, const void* block, std::int64_t row,
                            std::int64_t j0, std::int64_t h) {
  QueryGroup<S, KV, kHeads> group{a,
                                  static_cast<const typename KV::Bits*>(block),
                                  row,
                                  j0,
                                  Min(kKvBlockTokens, a.last_key - j0),
                                  h,
                                  a.scratch,
                                  {}};
  group.template Run<kKeys, kVecs>();
}

template <class S, class KV>
void AttentionBlock(const AttentionArgs& a, const void* block, std::int64_t row, std::int64_t j0) {
  const bool shared = a.k_head_stride == 0 && a.v_head_stride == 0;
  std::int64_t h = 0;
  while (shared && h + S::kSharedHeads <= a.n) {
    RunGroup<S, KV, S::kSharedHeads, S::kSharedKeys, 2>(a, block, row, j0, h);
    h += S::kSharedHeads;
  }
  for (; h < a.n; ++h) RunGroup<S, KV, 1, 8, 8>(a, block, row, j0, h);
}

TANDEM_INLINE void StartAttention(const AttentionArgs& a) {
  if (a.carry) return;
  for (std::int64_t i = 0; i < a.n; ++i) {
    a.maximum[i] = kLowest;
    a.sum[i] = 0;
    for (std::int64_t c = 0; c < a.dv; ++c) a.out[i * a.out_stride + c] = 0;
  }
}

template <class S, class Formats>
void AttentionOf(const AttentionArgs& a) {
  StartAttention(a);
  float* decoded = a.scratch + S::kSharedHeads * kKvBlockTokens;
  for (std::int64_t j0 = a.first_key; j0 < a.last_key; j0 += kKvBlockTokens) {
    const void* block = a.blocks[j0 / kKvBlockTokens];
    if (a.kv_type == DType::kF32) {
      AttentionBlock<S, typename Formats::F32>(a, block, a.token_bytes / 4, j0);
    } else if (a.kv_type == DType::kBF16) {
      AttentionBlock<S, typename Formats::BF16>(a, block, a.token_bytes / 2, j0);
    } else if (a.kv_type == DType::kF16) {
      AttentionBlock<S, typename Formats::F16>(a, block, a.token_bytes / 2, j0);
    } else {
      const std::int64_t tokens = Min(kKvBlockTokens, a.last_key - j0);
      KvDecodeOf<S, Formats>({{a.kv_type, a.dk, a.dv}, block, tokens, decoded, DType::kF32, a.dk});
      AttentionBlock<S, typename Formats::F32>(a, decoded, a.dk, j0);
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
