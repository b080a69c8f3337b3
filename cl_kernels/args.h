#pragma once

#include <CL/cl.h>

#include <cstdint>
#include <span>

#include "cl_kernels/hand_over_args.h"
#include "cl_kernels/mla_args.h"
#include "cl_kernels/span.h"
#include "cl_kernels/step_feed_args.h"
#include "memory/dtype.h"

namespace tandem::cl {

// Arguments of the OpenCL launchers. Offsets and strides count elements, offsets of weights bytes.
// All launchers only enqueue on the device's in-order queue. The equations are those of the CPU
// kernels' contracts; activations are f32.

// y[t, i] = w[i] * x[t, i] / sqrt(mean(x[t]^2) + eps); y may be x.
struct RmsNormArgs {
  Span x;
  std::int64_t x_stride = 0;
  Span w;  // f32 [D]
  Span y;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t D = 0;
  float eps = 0;
};

// RMSNorm of a product's input: x'[t] = norm_w * x[t] / sqrt(mean(x[t]^2) + eps).
struct InputNorm {
  Span w;  // f32 [K]; buffer null: no norm
  float eps = 0;
  Span out;  // f32 [T, K]: receives x'. Must be given with w; never overlaps x
  std::int64_t out_stride = 0;
};

// y[t, n] (+)= sum_k x[t, k] w[n, k] for all rows n of w, k < w.cols; x is x' where there is a
// norm.
//   w2 (buffer null: none) is a second matrix over the same x with as many columns:
//     swiglu  : y[t, n] = silu(x w^T)[t, n] * (x w2^T)[t, n]; w2 has w's format and shape
//     else    : y2[t, n] = sum_k x[t, k] w2[n, k]; any format
//   w and w2 may be in parts (span.h); with swiglu both are cut alike.
struct LinearArgs {
  Span x;
  std::int64_t x_stride = 0;
  Weight w;
  Span y;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  bool accumulate = false;
  InputNorm norm = {};
  Weight w2 = {};
  Span y2 = {};
  std::int64_t y2_stride = 0;
  bool swiglu = false;
  // Many rows may round x (and weights that bf16 cannot hold) to bf16; a device with matrix units
  // does from DeviceTraits::batch_rows_min rows on.
  bool bf16 = false;
  // And, where a weight is FP8, to e4m3 with a scale for each row and 128 columns (e4m3.cl).
  bool fp8 = false;
  // Scratch of GemmWorkFloats floats for many rows; buffer null: the form without it.
  Span work = {};
};

// Per head h < heads, with W_h = rows [h * head_rows + row0, ... + N) of w:
//   transposed : y[t, h, c] = sum_{n < N} x[t, h, n] W_h[n, c]   c < w.cols     (absorb the query)
//   straight   : y[t, h, n] = sum_{c < w.cols} x[t, h, c] W_h[n, c]   n < N     (un-absorb)
struct HeadLinearArgs {
  Span x;
  std::int64_t x_row_stride = 0;
  std::int64_t x_head_stride = 0;
  Weight w;
  std::int64_t head_rows = 0;
  std::int64_t row0 = 0;
  std::int64_t N = 0;
  Span y;
  std::int64_t y_row_stride = 0;
  std::int64_t y_head_stride = 0;
  std::int64_t T = 0;
  std::int64_t heads = 0;
  bool transposed = false;
};

// In place, for every row t and head: rotation by cos_sin[t] (f32 [T, d/2, 2]).
struct RopeArgs {
  Span x;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t heads = 0;
  std::int64_t d = 0;
  Span cos_sin;
  bool interleaved = true;
  std::int64_t T = 0;
};

// kv[slots[t] * width + i] = x[t, i]      i < width; kv in kv_type (f32, bf16 or f16: to nearest
// even, f16 saturating at 65504)
//   slots : i32 [T], block * 64 + position % 64; -1: the row is left out
struct KvAppendArgs {
  Span x;
  std::int64_t x_stride = 0;
  cl_mem kv = nullptr;
  DType kv_type = DType::kF32;
  std::int64_t width = 0;
  Span slots;
  std::int64_t T = 0;
};

// out[t, h, :] = attention of q[t, h] over n_keys[t] tokens; token j of row t lies in slot
// tables[table_start[t] + j / 64] * 64 + j % 64 of kv. k/v offsets and head strides as in
// cpu_kernels/attention.h. Works for any n_keys >= 1 in fixed local memory (online softmax).
// A row's keys may lie in several buffers, a launch each: the first writes out and lse, every next
// one merges. n_keys may be 0 in some.
enum class AttentionShare : std::uint8_t { kAlone, kFirst, kNext };
struct AttentionArgs {
  Span q;
  std::int64_t q_row_stride = 0;
  std::int64_t q_head_stride = 0;
  cl_mem kv = nullptr;
  DType kv_type = DType::kF32;
  std::int64_t width = 0;
  std::int64_t k_offset = 0;
  std::int64_t k_head_stride = 0;
  std::int64_t v_offset = 0;
  std::int64_t v_head_stride = 0;
  Span tables;       // i32
  Span table_start;  // i32 [T]
  Span n_keys;       // i32 [T]
  Span out;
  std::int64_t out_row_stride = 0;
  std::int64_t out_head_stride = 0;
  std::int64_t T = 0;
  std::int64_t heads = 0;
  std::int64_t dk = 0;
  std::int64_t dv = 0;
  float scale = 0;
  AttentionShare share = AttentionShare::kAlone;
  Span lse;  // [T, heads] log sum_j exp(s[h, j]); not of kAlone
};

// y[t, i] = silu(gate[t, i]) * up[t, i]; y may be gate.
struct SwigluArgs {
  Span gate;
  std::int64_t gate_stride = 0;
  Span up;
  std::int64_t up_stride = 0;
  Span y;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  std::int64_t F = 0;
};

// The largest of each row's logits, in kArgmaxParts parts that the host puts together.
inline constexpr std::int64_t kArgmaxParts = 32;
struct ArgmaxPart {
  float value = 0;
  cl_int id = 0;  // the lowest among equals; -1: the part has a NaN or +infinity
};
static_assert(sizeof(ArgmaxPart) == 8);
struct ArgmaxArgs {
  Span logits;  // f32 [rows, V]
  std::int64_t rows = 0;
  std::int64_t V = 0;
  cl_mem best = nullptr;  // ArgmaxPart [rows, kArgmaxParts]
};

// out[n, k] = w[n, k] in bf16, of a matrix in a block format that lies in the CPU's panels.
struct PanelsArgs {
  cl_mem panels = nullptr;
  std::uint64_t offset = 0;  // bytes, a multiple of 16
  DType dtype = DType::kQ4_K;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Span out;  // bf16 [rows, cols], offset in elements, a multiple of 8
};

// A matrix in a block format out of the CPU's panels into the layout of devices; a scalar format
// lies alike on both sides.
struct PanelSplitArgs {
  cl_mem panels = nullptr;
  std::uint64_t offset = 0;  // bytes, a multiple of 16
  DType dtype = DType::kQ4_K;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  cl_mem out = nullptr;
  std::uint64_t data_offset = 0;  // bytes, multiples of 16
  std::uint64_t side_offset = 0;
};

// y[i] += x[i], i < n
struct AddArgs {
  Span x;
  Span y;
  std::int64_t n = 0;
};

// As cpu::RouterArgs: from logits [T, E] to ids i32 [T, K] and weights f32 [T, K]; the same
// selection rule and the same tie-break, so that both sides choose alike.
struct RouterArgs {
  Span logits;
  Span bias;  // buffer null: none
  Span ids;
  Span weights;
  std::int64_t T = 0;
  std::int64_t E = 0;
  std::int64_t K = 0;
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  int scoring = 0;  // cpu::ScoringFunc
  int method = 0;   // cpu::TopkMethod
  bool norm_topk_prob = false;
  bool scale_normalised = true;
  float routed_scaling_factor = 1;
};

// Where an expert's matrices lie: an entry of a layer's table, made once at load. Byte offsets into
// the slab (one of the buffers that hold the layer's experts). A shared expert may follow the
// routed ones as one more entry.
struct ExpertEntry {
  cl_ulong gate = 0, gate_scale = 0;
  cl_ulong up = 0, up_scale = 0;
  cl_ulong down = 0, down_scale = 0;
  cl_int slab = -1;  // -1: not on this device
  cl_int F = 0;      // rows of gate and up, columns of down
};
static_assert(sizeof(ExpertEntry) == 56);

// At most tile_rows pairs (row of x, expert) of one expert, consecutive in the lists of pairs.
struct ExpertTile {
  cl_int expert = 0;
  cl_int first_pair = 0;
  cl_int n_pairs = 0;
  cl_int reserved = 0;
};
static_assert(sizeof(ExpertTile) == 16);

// Groups the pairs of T rows by expert, on the device: nothing of it travels to the host.
//   choices : row t has K of them, ids[t, k] with weights[t, k]; `shared` adds one, entry E with
//             weight 1. C = K + shared.
//   pairs   : those whose expert has a slab, sorted by expert, then row. pair_row[p],
//   pair_weight[p];
//             token_pairs[t, c] = p, or -1 where the expert is not on this device
//   tiles   : ceil(n / tile_rows) for an expert with n > 0 pairs; n_tiles[0] counts them
struct GroupArgs {
  Span ids;      // i32 [T, K]
  Span weights;  // f32 [T, K]
  Span table;    // ExpertEntry [E + shared], offset in 4-byte words
  std::int64_t T = 0;
  std::int64_t K = 0;
  std::int64_t E = 0;
  bool shared = false;
  std::int64_t tile_rows = 8;
  Span tiles;        // ExpertTile [MaxTiles], offset in 4-byte words
  Span n_tiles;      // i32 [1]
  Span pair_row;     // i32 [T C]
  Span pair_weight;  // f32 [T C]
  Span token_pairs;  // i32 [T, C]
};

// Tiles that T rows with C choices can make at the most, of E entries.
constexpr std::int64_t MaxTiles(std::int64_t T, std::int64_t C, std::int64_t E,
                                std::int64_t tile_rows) {
  const std::int64_t pairs = T * C;
  const std::int64_t partly = pairs < E ? pairs : E;
  return partly + pairs / tile_rows;
}

// The experts of a layer that are on this device, for the pairs that Group listed:
//   act[p, f]      = pair_weight[p] * silu(gate_e . x[pair_row[p]])[f] * (up_e . x[pair_row[p]])[f]
//   y[t, d]       += sum_c (down_e . act[token_pairs[t, c]])[d]   in the order of c
// A launch serves kSlabsAtOnce slabs: usually the routed experts' and the shared one's. A
// work-group that meets no tile, or a tile of another slab, leaves at once.
inline constexpr std::int64_t kSlabsAtOnce = 2;
struct ExpertsArgs {
  std::span<const cl_mem> slabs;
  DType gate_up = DType::kBF16;  // format of every gate and up
  DType down = DType::kBF16;
  std::int64_t D = 0;
  std::int64_t F = 0;       // the largest of the entries; stride of act
  std::int64_t F_unit = 0;  // that every entry's F is a multiple of; 0: of F, all being equal
  Span table;               // ExpertEntry
  Span tiles;
  Span n_tiles;
  std::int64_t max_tiles = 0;
  std::int64_t tile_rows = 8;  // as Group had it; see ExpertTileRows
  Span pair_row;
  Span pair_weight;
  Span token_pairs;
  std::int64_t T = 0;
  std::int64_t C = 0;
  Span x;
  std::int64_t x_stride = 0;
  Span act;       // f32 [T C, F] scratch
  Span pair_out;  // f32 [T C, D] scratch
  Span y;
  std::int64_t y_stride = 0;
  bool sum = true;    // false: pair_out[p] = down_e . act[p], and y is not touched
  bool bf16 = false;  // as LinearArgs
  // With bf16 and FP8 weights x and act may be rounded to e4m3, where experts have rows enough.
  bool fp8 = false;
  Span work = {};  // as LinearArgs: GemmWorkFloats(T, D) floats
  // Kernels::RouterAndShared has run with these: the shared expert's act and the chosen entries are
  // there, the latter in pair_out.
  bool shared_made = false;
};

// Slab i, or the last one where there are fewer: no tile is in it then.
inline cl_mem SlabAt(const ExpertsArgs& a, std::int64_t i) {
  const auto last = static_cast<std::int64_t>(a.slabs.size()) - 1;
  return a.slabs[static_cast<std::size_t>(i < last ? i : last)];
}

// y[t, d] += sum_k pair_out[token_pairs[t, k], d] over the k with token_pairs[t, k] >= 0, in order.
struct ExpertCombineArgs {
  Span pair_out;
  Span token_pairs;  // i32 [T, K]
  std::int64_t T = 0;
  std::int64_t K = 0;
  std::int64_t D = 0;
  Span y;
  std::int64_t y_stride = 0;
};

}  // namespace tandem::cl
