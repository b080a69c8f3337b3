#include "cpu_kernels/attention.h"

#include "cpu_kernels/amx/attention.h"
#include "cpu_kernels/amx/attention_rows.h"
#include "cpu_kernels/avx512/kernels.h"

// Attention on tiles of bf16. The keys are the A operand as they lie, so that scores come as
// [keys, queries] and softmax runs down the lanes; their weights change places once to be A against
// the values, whose neighbouring keys lie interleaved as B wants them.

namespace tandem::cpu::amx {
namespace {

constexpr std::int64_t kTile = 1024;  // bytes of 16 rows of 64
constexpr std::int64_t kTileFloats = kTile / 4;
constexpr std::int64_t kGroup = kAttentionQueries;
constexpr std::int64_t kSteps = kAttentionKeys / 32;       // tiles of keys as a sum's dimension
constexpr std::int64_t kScores = kAttentionKeys * kGroup;  // floats of one group
constexpr std::int64_t kWeights = kSteps * kTileFloats;
constexpr float kLowest = -3.0e38F;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tile registers of this thread, all of 16 rows of 64 bytes, for as long as it lives.
struct Tiles {
  Tiles() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// One call: where everything lies in the scratch.
struct Task {
  explicit Task(const AttentionArgs& args)
      : a(args),
        key_steps((args.dk + 31) / 32),
        value_tiles(args.dv / 16),
        layout{args.kv_type, args.dk, args.dv} {
    const auto at = reinterpret_cast<std::uintptr_t>(a.scratch);
    float* p = a.scratch + (64 - at % 64) % 64 / 4;
    keys = reinterpret_cast<std::uint16_t*>(p);
    p += kAttentionKeys * key_steps * 16;
    values = reinterpret_cast<std::uint16_t*>(p);
    p += kSteps * value_tiles * kTileFloats;
    scores = p;
    p += 2 * kScores;
    weights = p;
    p += 2 * kWeights;
    last_out = p;
    packed = reinterpret_cast<std::uint16_t*>(a.packed);
    in_place = a.kv_type == DType::kBF16 && a.dk % 32 == 0;
    groups = (a.n + kGroup - 1) / kGroup;
  }

  // The whole groups' outputs are summed where they belong.
  float* Out(std::int64_t g) const {
    return (g + 1) * kGroup <= a.n ? a.out + g * kGroup * a.out_stride : last_out;
  }
  std::int64_t OutStride(std::int64_t g) const {
    return (g + 1) * kGroup <= a.n ? a.out_stride : a.dv;
  }
  const std::uint16_t* Query(std::int64_t g) const { return packed + g * key_steps * kTile / 2; }

  const AttentionArgs& a;
  std::int64_t key_steps, value_tiles, groups = 0;
  KvLayout layout;
  bool in_place = false;              // keys are tiles as they lie
  std::uint16_t* keys = nullptr;      // [128, dk in whole steps] else
  std::uint16_t* values = nullptr;    // [steps][dv / 16] tiles
  float* scores = nullptr;            // [2 groups][128][16]
  float* weights = nullptr;           // [2 groups][steps] tiles
  float* last_out = nullptr;          // [16, dv] of a group that is not whole
  std::uint16_t* packed = nullptr;    // [groups][key_steps] tiles
  const std::uint8_t* block[2] = {};  // of the keys at hand
  std::int64_t j0 = 0;
  std::int64_t tokens = 0;
};

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

// 64 keys of one half against one group: four tiles of scores.
void ScoreOne(const Task& t, const std::uint8_t* keys, std::int64_t stride, std::int64_t g,
              float* scores) {
  const std::uint16_t* q = t.Query(g);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t k = 0; k < t.key_steps; ++k) {
    const std::uint8_t* key = keys + k * 64;
    _tile_loadd(6, q + k * kTile / 2, 64);
    _tile_loadd(4, key, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, key + 16 * stride, stride);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(4, key + 32 * stride, stride);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(5, key + 48 * stride, stride);
    _tile_dpbf16ps(3, 5, 6);
  }
  _tile_stored(0, scores, 64);
  _tile_stored(1, scores + kTileFloats, 64);
  _tile_stored(2, scores + 2 * kTileFloats, 64);
  _tile_stored(3, scores + 3 * kTileFloats, 64);
}

// 32 keys against two groups.
void ScoreTwo(const Task& t, const std::uint8_t* keys, std::int64_t stride, std::int64_t g,
              float* scores) {
  const std::uint16_t* q0 = t.Query(g);
  const std::uint16_t* q1 = t.Query(g + 1);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t k = 0; k < t.key_steps; ++k) {
    const std::uint8_t* key = keys + k * 64;
    _tile_loadd(4, key, stride);
    _tile_loadd(6, q0 + k * kTile / 2, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, q1 + k * kTile / 2, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, key + 16 * stride, stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, scores, 64);
  _tile_stored(1, scores + kScores, 64);
  _tile_stored(2, scores + kTileFloats, 64);
  _tile_stored(3, scores + kScores + kTileFloats, 64);
}

void Scores(const Task& t, std::int64_t g, bool two) {
  for (std::int64_t j = 0; j < t.tokens; j += kKvBlockTokens) {
    const auto* keys = t.in_place
                           ? t.block[j / kKvBlockTokens] + t.a.k_offset * 2
                           : reinterpret_cast<const std::uint8_t*>(t.keys + j * t.key_steps * 32);
    const std::int64_t stride = t.in_place ? t.a.token_bytes : t.key_steps * 64;
    float* scores = t.scores + j * kGroup;
    if (two) {
      ScoreTwo(t, keys, stride, g, scores);
      ScoreTwo(t, keys + 32 * stride, stride, g, scores + 2 * kTileFloats);
    } else {
      ScoreOne(t, keys, stride, g, scores);
    }
  }
}

// The queries of one group while their keys are at hand; lanes are queries.
struct Softmax {
  const Task& t;
  std::int64_t g;
  const float* scores;
  float* weights;
  __mmask16 there;
  __m512i visible;  // keys of these that a query sees

  Softmax(const Task& task, std::int64_t group, std::int64_t of_two)
      : t(task),
        g(group),
        scores(task.scores + of_two * kScores),
        weights(task.weights + of_two * kWeights) {
    const std::int64_t n = Min(kGroup, t.a.n - g * kGroup);
    there = static_cast<__mmask16>((1U << n) - 1);
    const __m512i seen = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(there, t.a.n_keys + g * kGroup),
                                          _mm512_set1_epi32(static_cast<int>(t.j0)));
    const __m512i most = _mm512_min_epi32(seen, _mm512_set1_epi32(static_cast<int>(t.tokens)));
    visible = _mm512_maskz_mov_epi32(there, _mm512_max_epi32(most, _mm512_setzero_si512()));
  }

  __mmask16 Sees(std::int64_t j) const {
    return _mm512_cmpgt_epi32_mask(visible, _mm512_set1_epi32(static_cast<int>(j)));
  }

  __m512 Highest(__m512 before) const {
    __m512 top = before;
    const std::int64_t all = _mm512_mask_reduce_min_epi32(there, visible);
    std::int64_t j = 0;
    for (; j < all; ++j) {
      top = _mm512_max_ps(top, _mm512_load_ps(scores + j * kGroup));
    }
    for (; j < t.tokens; ++j) {
      top = _mm512_mask_max_ps(top, Sees(j), top, _mm512_load_ps(scores + j * kGroup));
    }
    return top;
  }

  // exp(score - maximum) of two keys as bf16 pairs; `total` counts what the rounding left.
  TANDEM_INLINE __m512i Pair(std::int64_t j, __m512 top, __m512& total) const {
    __m512i bits[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512 s = _mm512_load_ps(scores + (j + i) * kGroup);
      const __m512 p = _mm512_maskz_mov_ps(Sees(j + i), Exponential(_mm512_sub_ps(s, top)));
      const __m512i half = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_set1_epi32(0x8000));
      bits[i] = _mm512_and_si512(half, _mm512_set1_epi32(static_cast<int>(0xFFFF0000)));
      total = _mm512_add_ps(total, _mm512_castsi512_ps(bits[i]));
    }
    return _mm512_or_si512(_mm512_srli_epi32(bits[0], 16), bits[1]);
  }

  // Turns scores into weights, and old sums and outputs to the new maximum.
  void Run() const {
    float* maximum = t.a.maximum + g * kGroup;
    float* sum = t.a.sum + g * kGroup;
    const __m512 before = _mm512_maskz_loadu_ps(there, maximum);
    const __m512 top = Highest(before);
    __m512 total = _mm512_setzero_ps();
    for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) rows[i] = Pair(step * 32 + 2 * i, top, total);
      Transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        _mm512_store_si512(weights + step * kTileFloats + i * 16, rows[i]);
    }
    const __m512 rescale = Exponential(_mm512_sub_ps(before, top));
    const __m512 old = _mm512_maskz_loadu_ps(there, sum);
    _mm512_mask_storeu_ps(sum, there, _mm512_fmadd_ps(old, rescale, total));
    _mm512_mask_storeu_ps(maximum, there, top);
    const __mmask16 moved = _mm512_mask_cmp_ps_mask(there, before, top, _CMP_LT_OQ);
    if (moved != 0) Rescale(rescale, moved);
  }

  void Rescale(__m512 rescale, __mmask16 moved) const {
    alignas(64) float factors[kGroup];
    _mm512_store_ps(factors, rescale);
    float* out = t.Out(g);
    for (std::int64_t i = 0; i < kGroup; ++i, out += t.OutStride(g)) {
      if ((moved >> i & 1) == 0) continue;
      const __m512 f = _mm512_set1_ps(factors[i]);
      for (std::int64_t c = 0; c < t.a.dv; c += 16) {
        _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_loadu_ps(out + c), f));
      }
    }
  }
};

// out += weights * values, four tiles of columns of one group.
void AddFour(const Task& t, std::int64_t g, std::int64_t c) {
  float* out = t.Out(g) + c * 16;
  const std::int64_t stride = t.OutStride(g) * 4;
  _tile_loadd(0, out, stride);
  _tile_loadd(1, out + 16, stride);
  _tile_loadd(2, out + 32, stride);
  _tile_loadd(3, out + 48, stride);
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    const std::uint16_t* value = t.values + (step * t.value_tiles + c) * kTile / 2;
    _tile_loadd(6, t.weights + step * kTileFloats, 64);
    _tile_loadd(4, value, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, value + kTile / 2, 64);
    _tile_dpbf16ps(1, 6, 5);
    _tile_loadd(4, value + kTile, 64);
    _tile_dpbf16ps(2, 6, 4);
    _tile_loadd(5, value + 3 * kTile / 2, 64);
    _tile_dpbf16ps(3, 6, 5);
  }
  _tile_stored(0, out, stride);
  _tile_stored(1, out + 16, stride);
  _tile_stored(2, out + 32, stride);
  _tile_stored(3, out + 48, stride);
}

// One tile of columns of one group, whose weights are the `of_two`th.
void AddOne(const Task& t, std::int64_t g, std::int64_t of_two, std::int64_t c) {
  float* out = t.Out(g) + c * 16;
  const std::int64_t stride = t.OutStride(g) * 4;
  _tile_loadd(0, out, stride);
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    _tile_loadd(6, t.weights + of_two * kWeights + step * kTileFloats, 64);
    _tile_loadd(4, t.values + (step * t.value_tiles + c) * kTile / 2, 64);
    _tile_dpbf16ps(0, 6, 4);
  }
  _tile_stored(0, out, stride);
}

// Two tiles of columns of two groups.
void AddTwoByTwo(const Task& t, std::int64_t g, std::int64_t c) {
  float* out0 = t.Out(g) + c * 16;
  float* out1 = t.Out(g + 1) + c * 16;
  const std::int64_t stride0 = t.OutStride(g) * 4;
  const std::int64_t stride1 = t.OutStride(g + 1) * 4;
  _tile_loadd(0, out0, stride0);
  _tile_loadd(1, out0 + 16, stride0);
  _tile_loadd(2, out1, stride1);
  _tile_loadd(3, out1 + 16, stride1);
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    const std::uint16_t* value = t.values + (step * t.value_tiles + c) * kTile / 2;
    _tile_loadd(6, t.weights + step * kTileFloats, 64);
    _tile_loadd(4, value, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, value + kTile / 2, 64);
    _tile_dpbf16ps(1, 6, 5);
    _tile_loadd(7, t.weights + kWeights + step * kTileFloats, 64);
    _tile_dpbf16ps(2, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
  }
  _tile_stored(0, out0, stride0);
  _tile_stored(1, out0 + 16, stride0);
  _tile_stored(2, out1, stride1);
  _tile_stored(3, out1 + 16, stride1);
}

void AddValues(const Task& t, std::int64_t g, bool two) {
  std::int64_t c = 0;
  if (two) {
    for (; c + 2 <= t.value_tiles; c += 2) AddTwoByTwo(t, g, c);
  } else {
    for (; c + 4 <= t.value_tiles; c += 4) AddFour(t, g, c);
  }
  for (; c < t.value_tiles; ++c) {
    AddOne(t, g, 0, c);
    if (two) AddOne(t, g + 1, 1, c);
  }
}

bool SeesNothing(const Task& t, std::int64_t g, bool two) {
  const std::int64_t last = Min(t.a.n, (g + (two ? 2 : 1)) * kGroup);
  for (std::int64_t i = g * kGroup; i < last; ++i) {
    if (t.a.n_keys[i] > t.j0) return false;
  }
  return true;
}

void Start(const Task& t) {
  for (std::int64_t i = 0; i < t.a.n; ++i) {
    t.a.maximum[i] = kLowest;
    t.a.sum[i] = 0;
    for (std::int64_t c = 0; c < t.a.dv; ++c) t.a.out[i * t.a.out_stride + c] = 0;
  }
}

// Copies the rows of a last group that is not whole to its tile-shaped place, or back.
void MoveLast(const Task& t, bool back) {
  const std::int64_t first = t.a.n / kGroup * kGroup;
  if (first == t.a.n) return;
  for (std::int64_t i = 0; i < kGroup; ++i) {
    float* at = t.last_out + i * t.a.dv;
    for (std::int64_t c = 0; c < t.a.dv; ++c) {
      float* out = t.a.out + (first + i) * t.a.out_stride + c;
      if (first + i >= t.a.n) {
        at[c] = 0;
      } else if (back) {
        *out = at[c];
      } else {
        at[c] = *out;
      }
    }
  }
}

}  // namespace

void AttentionBf16(const AttentionArgs& args) {
  Task t(args);
  const Tiles tiles;
  if (!args.carry) {
    Start(t);
    PackQueries(t);
  }
  MoveLast(t, false);
  for (std::int64_t j0 = args.first_key; j0 < args.last_key; j0 += kAttentionKeys) {
    PrepareKeys(t, j0);
    for (std::int64_t g = 0; g < t.groups; g += 2) {
      const bool two = g + 1 < t.groups;
      if (SeesNothing(t, g, two)) continue;
      Scores(t, g, two);
      Softmax(t, g, 0).Run();
      if (two) Softmax(t, g + 1, 1).Run();
      AddValues(t, g, two);
    }
  }
  MoveLast(t, true);
}

void KvDecode(const KvDecodeArgs& a) {
  if (a.out_type == DType::kF32 || a.out_stride % 32 != 0) return avx512::KvDecode(a);
  const auto* row = static_cast<const std::uint8_t*>(a.rows);
  const std::int64_t bytes = KvRowBytes(a.layout);
  auto* out = static_cast<std::uint16_t*>(a.out);
  for (std::int64_t i = 0; i < a.n; ++i, row += bytes, out += a.out_stride) {
    RoundRow(a.layout, row, 0, a.layout.width, out);
  }
}

}  // namespace tandem::cpu::amx
