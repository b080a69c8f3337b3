#include "runtime/measure_device_work.h"

#include <algorithm>
#include <cstring>

#include "memory/error.h"
#include "runtime/kv_cache.h"
#include "runtime/measure_meter.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kAlign = 256;  // of matrices in an arena
constexpr std::size_t kMostValueBytes = 256 * kMiB;
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

cl::Weight DeviceWork::Next(DType type, std::int64_t rows, std::int64_t cols) {
  const auto blocks = [](std::int64_t n) { return (n + kFp8Block - 1) / kFp8Block; };
  const std::size_t data = DataBytes(type, rows * cols);
  const std::size_t aligned = (data + kAlign - 1) / kAlign * kAlign;
  const std::size_t scales =
      type == DType::kF8E4M3 ? static_cast<std::size_t>(blocks(rows) * blocks(cols)) * sizeof(float)
                             : 0;
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
  side_.kernels.Linear({{v, 0}, k, Next(type, n, k), {v, rows * k}, n, rows, false});
}

void DeviceWork::PrepareExperts(DType type, std::int64_t D, std::int64_t F, std::int64_t experts,
                                std::int64_t rows) {
  used_ = 0;
  const std::size_t expert_bytes = DataBytes(type, 3 * D * F) * 1001 / 1000 + 6 * kAlign;
  const auto held = static_cast<std::int64_t>(weights_.bytes() / expert_bytes);
  constexpr std::int64_t kMostJobs = 1024;
  jobs_ = std::min(held, std::max(experts, kMostJobs / experts * experts)) / experts * experts;
  TANDEM_CHECK(jobs_ >= experts);
  std::vector<cl::ExpertJob> jobs;
  for (std::int64_t e = 0; e < jobs_; ++e) {
    const cl::Weight gate = Next(type, F, D);
    const cl::Weight up = Next(type, F, D);
    const cl::Weight down = Next(type, D, F);
    jobs.push_back({gate.offset, gate.scale_offset, up.offset, up.scale_offset, down.offset,
                    down.scale_offset, static_cast<cl_int>(e % experts * rows),
                    static_cast<cl_int>(rows)});
  }
  const std::int64_t pairs = experts * rows;
  const std::int64_t T = std::max(rows, (pairs + kTypicalTopK - 1) / kTypicalTopK);
  const std::int64_t K = (pairs + T - 1) / T;
  // As FeedForward::UploadJobs: jobs, row and weight of each pair, the pairs of each token.
  const std::size_t job_bytes = jobs.size() * sizeof(cl::ExpertJob);
  std::vector<std::byte> memory(job_bytes + (2 * pairs + T * K) * sizeof(std::int32_t));
  std::memcpy(memory.data(), jobs.data(), job_bytes);
  auto* words = reinterpret_cast<std::int32_t*>(memory.data() + job_bytes);
  for (std::int64_t i = 0; i < pairs; ++i) {
    words[i] = static_cast<std::int32_t>(i % rows * (T / rows) + i / rows % (T / rows));
    const float weight = 0.1F;
    std::memcpy(words + pairs + i, &weight, sizeof(weight));
  }
  for (std::int64_t i = 0; i < T * K; ++i) {
    words[2 * pairs + i] = i < pairs ? static_cast<std::int32_t>(i) : -1;
  }
  if (lists_.bytes() < memory.size()) lists_ = side_.device.Allocate(memory.size());
  side_.device.BlockingWrite(lists_.get(), 0, memory.data(), memory.size());

  const auto job_words = static_cast<std::int64_t>(job_bytes / sizeof(std::int32_t));
  const cl_mem v = values_.get();
  std::int64_t at = 0;
  const auto take = [&](std::int64_t values) {
    return cl::Span{v, std::exchange(at, at + values)};
  };
  experts_ = {};
  experts_.weights = weights_.get();
  experts_.dtype = type;
  experts_.D = D;
  experts_.F = F;
  experts_.n_jobs = experts;
  experts_.max_pairs = rows;
  experts_.pair_row = {lists_.get(), job_words};
  experts_.pair_weight = {lists_.get(), job_words + pairs};
  Refresh(T * D);
  experts_.x = take(T * D);
  experts_.x_stride = D;
  experts_.act = take(pairs * F);
  experts_.gate_up = take(2 * pairs * F);
  experts_.pair_out = take(pairs * D);
  combine_ = {experts_.pair_out, {lists_.get(), job_words + 2 * pairs}, T, K, D, take(T * D), D};
  TANDEM_CHECK(at <= value_room(0));
  first_job_ = 0;
}

void DeviceWork::Experts() {
  if (first_job_ + experts_.n_jobs > jobs_) first_job_ = 0;
  experts_.jobs = {lists_.get(), first_job_};
  first_job_ += experts_.n_jobs;
  side_.kernels.ExpertJobs(experts_);
  side_.kernels.ExpertCombine(combine_);
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
  attention_.q_row_stride = heads * kWidth;
  attention_.q_head_stride = kWidth;
  attention_.kv = kv_.get();
  attention_.kv_type = DType::kF16;
  attention_.width = attention_.dk = kWidth;
  attention_.dv = kLatent;
  attention_.tables = {lists_.get(), 0};
  attention_.table_start = {lists_.get(), caches_ * cache_blocks_};
  attention_.n_keys = {lists_.get(), caches_ * cache_blocks_ + rows};
  attention_.out = {v, rows * heads * kWidth};
  attention_.out_row_stride = heads * kLatent;
  attention_.out_head_stride = kLatent;
  attention_.T = rows;
  attention_.heads = heads;
  attention_.scale = 0.01F;
  TANDEM_CHECK(rows * heads * kHeadValues <= value_room(0));
}

void DeviceWork::Attention() {
  attention_.tables.offset = next_cache_ * cache_blocks_;
  next_cache_ = (next_cache_ + 1) % caches_;
  const cl::AttentionArgs& a = attention_;
  const cl::Weight kv_b = Next(DType::kBF16, a.heads * (kNope + kHeadOut), kLatent);
  const cl::Span q{queries_.get(), 0};
  const cl::Span out{values_.get(), a.out.offset + a.T * a.heads * kLatent};
  cl::Kernels& k = side_.kernels;
  k.HeadLinear({q, a.heads * kQuery, kQuery, kv_b, kNope + kHeadOut, 0, kNope, a.q, a.q_row_stride,
                kWidth, a.T, a.heads, true});
  CopyRopedQuery();
  k.Attention(a);
  k.HeadLinear({a.out, a.out_row_stride, kLatent, kv_b, kNope + kHeadOut, kNope, kHeadOut, out,
                a.heads * kHeadOut, kHeadOut, a.T, a.heads, false});
}

void DeviceWork::CopyRopedQuery() const {
  const auto rows = static_cast<std::size_t>(attention_.T * attention_.heads);
  const auto byte = [](std::int64_t values) {
    return static_cast<std::size_t>(values) * sizeof(float);
  };
  const std::size_t src[] = {byte(kNope), 0, 0};
  const std::size_t dst[] = {byte(kLatent), 0, 0};
  const std::size_t region[] = {byte(kRope), rows, 1};
  ClCheck(clEnqueueCopyBufferRect(side_.device.queue(), queries_.get(), values_.get(), src, dst,
                                  region, byte(kQuery), 0, byte(kWidth), 0, 0, nullptr, nullptr),
          "clEnqueueCopyBufferRect");
}

}  // namespace tandem
