#pragma once

#include <cstdint>
#include <vector>

#include "runtime/device_side.h"

namespace tandem {

// Kernels of a step on a device, on weights of no model. Matrices follow each other through a
// buffer that no cache holds. Everything only enqueues, but for the Prepare functions.
class DeviceWork {
 public:
  static constexpr std::int64_t kNormWidth = 2048;
  // Values of one head and row in all buffers of attention: query, absorbed, latent, output.
  static constexpr std::int64_t kHeadValues = 576 + 512 + 128;

  // `most_value_bytes`: what activations may take.
  DeviceWork(DeviceSide& side, std::size_t weight_bytes, std::size_t most_value_bytes);

  cl_mem weights() const { return weights_.get(); }
  std::size_t weight_bytes() const { return weights_.bytes(); }
  // Activations that fit beside `taken` ones.
  std::int64_t value_room(std::int64_t taken) const;
  // Keys that the cache holds for each of `rows` rows.
  std::int64_t most_keys(std::int64_t rows) const;
  // `most` in whole blocks of 128, but at least one, and no more than n.
  static std::int64_t Blocks(double most, std::int64_t n);

  void Norm(std::int64_t rows);
  // Makes the first values good inputs again: before another shape is measured.
  void Refresh(std::int64_t values);
  void Linear(DType type, std::int64_t n, std::int64_t k, std::int64_t rows);

  // Experts of [F, D] from one end of the weights to the other, and the lists of some at a time.
  void PrepareExperts(DType type, std::int64_t D, std::int64_t F, std::int64_t experts,
                      std::int64_t rows);
  // The next ones: gate, up, down, and the sum of each token.
  void Experts();

  // Few rows are sequences of their own, as in decode; more share one sequence's keys.
  void PrepareAttention(std::int64_t heads, std::int64_t rows, std::int64_t keys);
  // From queries to head outputs, as Attention::MlaOnDevice, with the next W_UK and W_UV.
  void Attention();

 private:
  cl::Weight Next(DType wanted, std::int64_t rows, std::int64_t cols);
  std::uint64_t Take(std::size_t bytes);
  cl::MlaExpandedArgs Expanded(const cl::HeadWeights& heads, const cl::Span& out) const;
  bool Expands(const cl::MlaExpandedArgs& e) const;
  void ListPairs(std::int64_t experts, std::int64_t rows, std::int64_t T, std::int64_t K);

  DeviceSide& side_;
  ClBuffer weights_;
  ClBuffer values_;
  ClBuffer queries_;  // a rectangular copy needs a buffer of its own on either end
  ClBuffer kv_;       // f16
  ClBuffer lists_;    // tiles, pairs, block tables
  ClBuffer table_;    // experts
  ClBuffer parts_;    // of attention
  ClBuffer work_;     // of products of many rows
  std::vector<std::byte> pattern_;
  std::size_t used_ = 0;
  cl::ExpertsArgs experts_;
  cl_mem slab_ = nullptr;
  std::int64_t first_expert_ = 0, held_ = 0, at_once_ = 0;
  cl::MlaAttentionArgs attention_;
  std::int64_t caches_ = 1, cache_blocks_ = 1, next_cache_ = 0;
};

}  // namespace tandem
