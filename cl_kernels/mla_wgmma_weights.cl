// Probabilities of mla_wgmma.cl: made by the scorers, and what becomes of the sums.
#if NV_COMPUTE == 90 && KVTYPE != KVTYPE_F32

// A barrier of the scorers that tells whether the condition holds anywhere.
INLINE int scorers_any(int condition) {
  int any;
  asm volatile(
      "{ .reg .pred p, r; setp.ne.s32 p, %1, 0; bar.red.or.pred r, 7, 128, p; "
      "selp.s32 %0, 1, 0, r; }"
      : "=r"(any)
      : "r"(condition)
      : "memory");
  return any;
}

// o[32 m + 4 n + i] *= what slot 8 n + lane % 4 * 2 + i % 2 asks for.
INLINE void correct_sums(float* o, uint factors, int lane, const int tiles) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const uint from = factors + (n * 8 + lane % 4 * 2) * 4;
    const float factor[2] = {get1(from), get1(from + 4)};
#pragma unroll
    for (int m = 0; m < ADDER_TILES; ++m) {
      if (m >= tiles) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) o[32 * m + 4 * n + i] *= factor[i % 2];
    }
  }
}

// Of slots lane / 4 and lane / 4 + 8 of this warp's 16, in powers of 2.
typedef struct {
  float largest[2], total[2];
  int whole;  // the keys that all slots of this warp have; LIMITS_AT tells those of each
} scorer_t;
// As LAZY, in powers of 2.
#define LAZY_2 8.0f
// Below any score, but finite: no key is still 0, and any key is far above it.
#define NOTHING_YET -1e30f

// Powers of 2, zeros below the smallest normal number: native_exp2 takes three instructions more.
INLINE float exp2_of(float x) {
  float y;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where this lane's row of a step's probabilities, a warp's 16 slots x 16 keys in four matrices of
// 8 x 8, lies.
INLINE uint weights_at(const place_t* at, uint odd) {
  const uint lid = again(at->lid);  // registers are short
  return at->mail + odd * PROBABILITIES_BYTES + (lid / 32 * 16 + lid % 16) * 32 +
         (lid / 16 % 2 ^ lid / 4 % 2) * 16;
}

// Scores s of 16 keys to probabilities at `to`, with the largest score there was before; their sums
// are added to `sums`. s[4 i + 2 r + k]: slot r, keys lane % 4 * 2 + 8 i + k.
INLINE void put_weights(float* sums, const float* s, const scorer_t* state, float scale2, uint to) {
  float p[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) p[i] = exp2_of(fma(s[i], scale2, -state->largest[i / 2 % 2]));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :
               : "r"(to), "r"(pack(p[0], p[1])), "r"(pack(p[2], p[3])), "r"(pack(p[4], p[5])),
                 "r"(pack(p[6], p[7]))
               : "memory");
#pragma unroll
  for (int r = 0; r < 2; ++r) sums[r] += (p[2 * r] + p[2 * r + 1]) + (p[4 + 2 * r] + p[5 + 2 * r]);
}

INLINE float largest_of(const float* s, int r) {
  return fmax(fmax(s[2 * r], s[2 * r + 1]), fmax(s[4 + 2 * r], s[5 + 2 * r]));
}

// The same again where a score is too large for the largest one before; scale2 > 0.
INLINE void raise_weights(float* o, const float* s, scorer_t* state, const place_t* at, uint odd) {
  const int lane = at->lid % 32;
  const uint factors = at->mail + FACTORS_AT + odd * FACTORS_BYTES;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = largest_of(s, r);
    most = fmax(most, from_lane(most, 1));
    most = fmax(most, from_lane(most, 2)) * at->scale;
    const int rises = most > state->largest[r] + LAZY_2;
    const float factor = rises ? exp2_of(state->largest[r] - most) : 1.0f;
    state->largest[r] = rises ? most : state->largest[r];
    state->total[r] *= factor;
    if (lane % 4 == 0) put1(factors + (at->lid / 32 * 16 + lane / 4 + r * 8) * 4, factor);
  }
  put_weights(state->total, s, state, at->scale, weights_at(at, odd));
  if (at->lid == 0) put1(at->mail + ANY_AT + odd * 4, 1.0f);
  wgmma_fence_loads();
  named_barrier(SCORERS, 128);
  correct_sums(o, factors, lane, SCORER_TILES);
}

// From the scores of a step to its probabilities, for all. They are made with the largest score of
// the steps before, so that no lane waits for another's. Only if one is above it by more than
// LAZY_2, which is rare, are they made again and the sums corrected.
INLINE void share_weights(float* o, const float* s, scorer_t* state, const place_t* at, uint odd) {
  int rises = 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rises |= fma(largest_of(s, r), at->scale, -state->largest[r]) > LAZY_2;
  }
  float sums[2] = {state->total[0], state->total[1]};
  put_weights(sums, s, state, at->scale, weights_at(at, odd));
  wgmma_fence_loads();
  if (scorers_any(rises)) {
    raise_weights(o, s, state, at, odd);
  } else {
#pragma unroll
    for (int r = 0; r < 2; ++r) state->total[r] = sums[r];
  }
}

// Scores of keys that a slot's row does not have become -INFINITY.
INLINE void mask_scores(float* s, const scorer_t* state, const place_t* at, int j) {
  if (j + KEYS <= state->whole) return;
  const uint lid = again(at->lid);
  const uint limits = at->mail + LIMITS_AT + (lid / 32 * 16 + lid % 32 / 4) * 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int key = j + (int)(lid % 4 * 2) + i % 2 + i / 4 * 8;
    if (key >= as_int(get1(limits + i / 2 % 2 * 32))) s[i] = -INFINITY;
  }
}

// How many of the pass's keys each slot of this warp has.
INLINE void set_limits(scorer_t* state, const place_t* at, const int* own_row, const pass_t* pass,
                       const global int* n_keys) {
  const uint limits = at->mail + LIMITS_AT + (at->lid / 32 * 16 + at->lid % 32 / 4) * 4;
  int fewest = pass->last;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int here = own_row[r] >= pass->first_row && own_row[r] < pass->row;
    const int limit = here ? min(n_keys[own_row[r]], pass->last) : 0;
    fewest = min(fewest, limit);
    put1(limits + r * 32, as_float(limit));
  }
  asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(state->whole) : "r"(fewest));
}

#endif
