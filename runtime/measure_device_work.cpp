#include "runtime/measure_device_work.h"

#include <algorithm>
#include <cstring>

#include "cl_kernels/experts.h"
#include "cl_kernels/gemm.h"
#include "memory/error.h"
#include "memory/split_layout.h"
#include "model/config.h"
#include "model/quantize.h"
#include "placement/attention_scratch.h"
#include "runtime/kv_cache.h"
#include "runtime/measure_meter.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kAlign = 256;  // of matrices in an arena
constexpr std::size_t kMostValueBytes = 512 * kMiB;
constexpr std::size_t kMostKvBytes = 128 * kMiB;
constexpr std::int64_t kTypicalTopK = 8;
constexpr std::int64_t kOwnSequences = 8;  // up to so many rows are decoded side by side

// MLA of DeepSeek-V2 and V3.
constexpr std::int64_t kLatent = 512;
constexpr std::int64_t kRope = 64;
constexpr std::int64_t kNope = 128;
constexpr std::int64_t kHeadOut = 128;
constexpr std::int64_t kWidth = kLatent + kRope;
constexpr std::int64_t kQuery = kNope + kRope;
constexpr std::size_t kKvRowBytes = kWidth * sizeof(std::uint16_t);

void Fill(const ClDevice& device, const ClBuffer& buffer, const std::vector<std::byte>& pattern) {
  for (std::size_t at = 0; at < buffer.bytes(); at += pattern.size()) {
    device.BlockingWrite(buffer.get(), at, pattern.data(),
                         std::min(pattern.size(), buffer.bytes() - at));
  }
}

}  // namespace

DeviceWork::DeviceWork(DeviceSide& side, std::size_t weight_bytes, std::size_t most_value_bytes)
    : side_(side),
      weights_(side.device.Allocate(weight_bytes)),
      values_(side.device.Allocate(
          std::min({kMostValueBytes, most_value_bytes, side.device.info().max_alloc_bytes}))),
      queries_(side.device.Allocate(values_.bytes() / kHeadValues * kQuery)),
      kv_(side.device.Allocate(std::min(kMostKvBytes, most_value_bytes / 4) / kKvRowBytes /
                               kKvBlock * kKvBlock * kKvRowBytes)),
      lists_(side.device.Allocate(kMiB)),
      pattern_(WeightBytes(4 * kMiB)) {
  Fill(side_.device, weights_, pattern_);
  Fill(side_.device, kv_, pattern_);
  Fill(side_.device, values_, pattern_);
  Fill(side_.device, queries_, pattern_);
}

std::int64_t DeviceWork::value_room(std::int64_t taken) const {
  return static_cast<std::int64_t>(values_.bytes() / sizeof(float)) - taken;
}

std::int64_t DeviceWork::most_keys(std::int64_t rows) const {
  const std::int64_t sequences = rows <= kOwnSequences ? rows : 1;
  return static_cast<std::int64_t>(kv_.bytes() / kKvRowBytes) / sequences / kKvBlock * kKvBlock;
}

std::int64_t DeviceWork::Blocks(double most, std::int64_t n) {
  const auto blocks = static_cast<std::int64_t>(most / kFp8Block);
  return std::min(n, std::max<std::int64_t>(1, blocks) * kFp8Block);
}

std::uint64_t DeviceWork::Take(std::size_t bytes) {
  const std::size_t aligned = (bytes + kAlign - 1) / kAlign * kAlign;
  TANDEM_CHECK(aligned <= weights_.bytes());
  if (used_ + aligned > weights_.bytes()) used_ = 0;
  return std::exchange(used_, used_ + aligned);
}

// As a model in this format would have it: where its blocks do not fit, the next larger format.
cl::Weight DeviceWork::Next(DType wanted, std::int64_t rows, std::int64_t cols) {
  const DType type = FittingFormat(wanted, cols);
  const auto blocks = [](std::int64_t n) { return (n + kFp8Block - 1) / kFp8Block; };
  const std::size_t data = SplitDataBytes(type, rows, cols);
  const std::size_t aligned = (data + kAlign - 1) / kAlign * kAlign;
  const std::size_t scales =
      type == DType::kF8E4M3 ? static_cast<std::size_t>(blocks(rows) * blocks(cols)) * sizeof(float)
                             : SplitSideBytes(type, rows, cols);
  const std::uint64_t at = Take(aligned + scales);
  return {weights_.get(), at, at + aligned, type, rows, cols};
}

void DeviceWork::Norm(std::int64_t rows) {
  const cl_mem v = values_.get();
  const std::int64_t T = std::min(rows, value_room(kNormWidth) / kNormWidth);
  side_.kernels.RmsNorm(
      {{v, kNormWidth}, kNormWidth, {v, 0}, {v, kNormWidth}, kNormWidth, T, kNormWidth, 1e-6F});
}

// Results of earlier products lie where these inputs are: fed on, they shrink to subnormals, which
// slow a CPU's arithmetic a hundredfold.
void DeviceWork::Refresh(std::int64_t values) {
  const std::size_t bytes = static_cast<std::size_t>(values) * sizeof(float);
  for (std::size_t at = 0; at < bytes; at += pattern_.size()) {
    side_.device.BlockingWrite(values_.get(), at, pattern_.data(),
                               std::min(pattern_.size(), bytes - at));
  }
}

void DeviceWork::Linear(DType type, std::int64_t n, std::int64_t k, std::int64_t rows) {
  const cl_mem v = values_.get();
  cl::LinearArgs a{{v, 0}, k, Next(type, n, k), {v, rows * k}, n, rows, false};
  const auto work = static_cast<std::size_t>(cl::GemmWorkFloats(rows, k)) * sizeof(float);
  if (work_.bytes() < work) work_ = side_.device.Allocate(work);
  a.bf16 = true;
  a.work = {work_.get(), 0};
  side_.kernels.Linear(a);
}

void DeviceWork::PrepareExperts(DType type, std::int64_t D, std::int64_t F, std::int64_t experts,
                                std::int64_t rows) {
  used_ = 0;
  const std::size_t expert_bytes = DataBytes(type, 3 * D * F) * 1001 / 1000 + 6 * kAlign;
  const auto room = static_cast<std::int64_t>(weights_.bytes() / expert_bytes);
  constexpr std::int64_t kMostExperts = 1024;
  held_ = std::min(room, std::max(experts, kMostExperts / experts * experts)) / experts * experts;
  TANDEM_CHECK(held_ >= experts);
  at_once_ = experts;
  first_expert_ = 0;
  std::vector<cl::ExpertEntry> table;
  for (std::int64_t e = 0; e < held_; ++e) {
    const cl::Weight gate = Next(type, F, D);
    const cl::Weight up = Next(type, F, D);
    const cl::Weight down = Next(type, D, F);
    table.push_back({gate.offset, gate.scale_offset, up.offset, up.scale_offset, down.offset,
                     down.scale_offset, 0, static_cast<cl_int>(F)});
  }
  const std::size_t table_bytes = table.size() * sizeof(cl::ExpertEntry);
  if (table_.bytes() < table_bytes) table_ = side_.device.Allocate(table_bytes);
  side_.device.BlockingWrite(table_.get(), 0, table.data(), table_bytes);

  const std::int64_t pairs = experts * rows;
  const std::int64_t T = std::max(rows, (pairs + kTypicalTopK - 1) / kTypicalTopK);
  const std::int64_t K = (pairs + T - 1) / T;
  slab_ = weights_.get();
  experts_ = {};
  experts_.slabs = {&slab_, 1};
  experts_.gate_up = FittingFormat(type, D);
  experts_.down = FittingFormat(type, F);
  experts_.D = D;
  experts_.F = F;
  experts_.bf16 = true;
  ListPairs(experts, rows, T, K);
  const cl_mem v = values_.get();
  std::int64_t at = 0;
  const auto take = [&](std::int64_t values) {
    return cl::Span{v, std::exchange(at, at + (values + 63) / 64 * 64)};
  };
  Refresh(T * D);
  experts_.x = take(T * D);
  experts_.x_stride = D;
  experts_.act = take(T * K * F);
  experts_.pair_out = take(T * K * D);
  experts_.y = take(T * D);
  experts_.y_stride = D;
  experts_.work = take(cl::GemmWorkFloats(T, D));
  TANDEM_CHECK(at <= value_room(0));
}

// What Group would list for `experts` experts with `rows` rows each.
void DeviceWork::ListPairs(std::int64_t experts, std::int64_t rows, std::int64_t T,
                           std::int64_t K) {
  const std::int64_t pairs = experts * rows;
  cl::ExpertsArgs& a = experts_;
  a.T = T;
  a.C = K;
  a.tile_rows = cl::ExpertTileRows(side_.kernels.traits(), T, K, experts, a.bf16);
  std::vector<cl::ExpertTile> tiles;
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t p = 0; p < rows; p += a.tile_rows) {
      tiles.push_back({static_cast<cl_int>(e), static_cast<cl_int>(e * rows + p),
                       static_cast<cl_int>(std::min(a.tile_rows, rows - p))});
    }
  }
  a.max_tiles = std::ssize(tiles);
  const std::size_t tile_words = tiles.size() * sizeof(cl::ExpertTile) / sizeof(cl_int);
  std::vector<std::int32_t> words(tile_words + 1 + static_cast<std::size_t>(2 * pairs + T * K));
  std::memcpy(words.data(), tiles.data(), tiles.size() * sizeof(cl::ExpertTile));
  words[tile_words] = static_cast<std::int32_t>(tiles.size());
  std::int32_t* pair = words.data() + tile_words + 1;
  for (std::int64_t i = 0; i < pairs; ++i) {
    pair[i] = static_cast<std::int32_t>(i % rows * (T / rows) + i / rows % (T / rows));
    const float weight = 0.1F;
    std::memcpy(pair + pairs + i, &weight, sizeof(weight));
  }
  for (std::int64_t i = 0; i < T * K; ++i) {
    pair[2 * pairs + i] = i < pairs ? static_cast<std::int32_t>(i) : -1;
  }
  const std::size_t bytes = words.size() * sizeof(std::int32_t);
  if (lists_.bytes() < bytes) lists_ = side_.device.Allocate(bytes);
  side_.device.BlockingWrite(lists_.get(), 0, words.data(), bytes);
  const auto first = static_cast<std::int64_t>(tile_words);
  a.tiles = {lists_.get(), 0};
  a.n_tiles = {lists_.get(), first};
  a.pair_row = {lists_.get(), first + 1};
  a.pair_weight = {lists_.get(), first + 1 + pairs};
  a.token_pairs = {lists_.get(), first + 1 + 2 * pairs};
}

void DeviceWork::Experts() {
  constexpr std::int64_t kEntryWords = sizeof(cl::ExpertEntry) / sizeof(cl_int);
  if (first_expert_ + at_once_ > held_) first_expert_ = 0;
  experts_.table = {table_.get(), first_expert_ * kEntryWords};
  first_expert_ += at_once_;
  side_.kernels.Experts(experts_);
}

void DeviceWork::PrepareAttention(std::int64_t heads, std::int64_t rows, std::int64_t keys) {
  const std::int64_t blocks = (keys + kKvBlock - 1) / kKvBlock;
  const std::int64_t sequences = rows <= kOwnSequences ? rows : 1;
  // As many caches as there is room for, each in turn: in a step every layer reads its own, which
  // the weights between have driven out of the device's cache.
  const auto all = static_cast<std::int64_t>(kv_.bytes() / kKvRowBytes / kKvBlock);
  caches_ = std::max<std::int64_t>(1, all / (sequences * blocks));
  cache_blocks_ = sequences * blocks;
  next_cache_ = 0;
  std::vector<std::int32_t> words;
  for (std::int64_t i = 0; i < caches_ * cache_blocks_; ++i) {
    words.push_back(static_cast<std::int32_t>(i));
  }
  for (std::int64_t t = 0; t < rows; ++t) {
    words.push_back(static_cast<std::int32_t>(t % sequences * blocks));
  }
  words.insert(words.end(), rows, static_cast<std::int32_t>(keys));
  const std::size_t bytes = words.size() * sizeof(std::int32_t);
  if (lists_.bytes() < bytes) lists_ = side_.device.Allocate(bytes);
  side_.device.BlockingWrite(lists_.get(), 0, words.data(), bytes);
  const cl_mem v = values_.get();
  attention_ = {};
  attention_.q = {v, 0};
  attention_.kv = kv_.get();
  attention_.kv_type = DType::kF16;
  attention_.tables = {lists_.get(), 0};
  attention_.table_start = {lists_.get(), caches_ * cache_blocks_};
  attention_.n_keys = {lists_.get(), caches_ * cache_blocks_ + rows};
  attention_.max_keys = keys;
  attention_.T = rows;
  attention_.H = heads;
  attention_.R = kLatent;
  attention_.d = kRope;
  attention_.scale = 0.01F;
  attention_.bf16 = true;
  attention_.splits = cl::MlaSplits(rows, heads, keys, side_.device.info().compute_units);
  const std::int64_t least = rows == 1 ? cl::kMlaOneRowSplits : 1;
  const std::int64_t parts = rows * heads * std::max(attention_.splits, least);
  if (parts_.bytes() < static_cast<std::size_t>(parts * (kLatent + 1)) * sizeof(float)) {
    parts_ = side_.device.Allocate(static_cast<std::size_t>(parts * (kLatent + 1)) * sizeof(float));
  }
  attention_.parts = {parts_.get(), 0};
  attention_.lse = {parts_.get(), parts * kLatent};
  TANDEM_CHECK(rows * heads * kHeadValues <= value_room(0));
}

// The expanded form of the same, with as much room for its keys and values as in a step.
cl::MlaExpandedArgs DeviceWork::Expanded(const cl::HeadWeights& heads, const cl::Span& out) const {
  const cl::MlaAttentionArgs& a = attention_;
  const std::int64_t slots = a.T * a.H;
  cl::MlaExpandedArgs e;
  e.q = {queries_.get(), 0};
  e.q_stride = a.H * kQuery;
  e.cos_sin = {queries_.get(), 0};
  e.kv = a.kv;
  e.kv_type = a.kv_type;
  e.tables = a.tables;
  e.n_keys = a.n_keys;
  e.max_keys = a.max_keys;
  e.w = heads;
  e.T = a.T;
  e.H = a.H;
  e.R = a.R;
  e.d = a.d;
  e.nope = kNope;
  e.dv = kHeadOut;
  e.scale = a.scale;
  e.latents = a.q;
  e.latents_floats = slots * kWidth;
  e.expanded = a.parts;
  e.expanded_floats = slots * a.splits * kLatent;
  e.lse = a.lse;
  e.out = out;
  e.out_stride = a.H * kHeadOut;
  e.bf16 = a.bf16;
  return e;
}

// As Attention::MlaOnDevice decides, for one sequence.
bool DeviceWork::Expands(const cl::MlaExpandedArgs& e) const {
  Config c;
  c.kv_lora_rank = kLatent;
  c.qk_nope_head_dim = kNope;
  c.v_head_dim = kHeadOut;
  return e.T > kOwnSequences && e.T >= LeastExpandedRows(c) && side_.kernels.MlaExpandedPays(e);
}

void DeviceWork::Attention() {
  attention_.tables.offset = next_cache_ * cache_blocks_;
  next_cache_ = (next_cache_ + 1) % caches_;
  const cl::MlaAttentionArgs& a = attention_;
  const cl::HeadWeights heads{Next(DType::kBF16, a.H * (kNope + kHeadOut), kLatent), {}, {}};
  const cl::Span out{values_.get(), a.T * a.H * kWidth};
  cl::Kernels& k = side_.kernels;
  const cl::MlaExpandedArgs expanded = Expanded(heads, out);
  if (Expands(expanded)) return k.MlaExpanded(expanded);
  // Angles that are no angles: any value takes as long.
  const cl::MlaQueryArgs query{{queries_.get(), 0},
                               a.H * kQuery,
                               heads,
                               {queries_.get(), 0},
                               a.q,
                               a.T,
                               a.H,
                               a.R,
                               a.d,
                               kNope,
                               kHeadOut,
                               a.bf16};
  const cl::MlaOutputArgs output{a.parts, a.lse, a.splits, heads, out,      a.H * kHeadOut,
                                 a.T,     a.H,   a.R,      kNope, kHeadOut, a.bf16};
  if (k.MlaOneRow(query, a, output)) return;
  k.MlaQuery(query);
  k.MlaAttention(a);
  k.MlaOutput(output);
}

}  // namespace tandem
