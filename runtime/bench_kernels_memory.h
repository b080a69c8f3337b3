#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cl_kernels/args.h"
#include "memory/cl_device.h"
#include "memory/dtype.h"

namespace tandem {

// Device memory for kernels that are timed on no model: weights (or keys) that no cache holds, and
// activations.
class BenchMemory {
 public:
  BenchMemory(const ClDevice& device, std::size_t weight_bytes);

  const ClDevice& device() const { return device_; }
  cl_mem weights() const { return weights_.get(); }
  std::size_t weight_bytes() const { return weights_.bytes(); }

  // Makes the weights ordinary numbers of this format, with random signs and mantissas: the power
  // that a product takes, and so its speed, depends on them.
  void Fill(DType type);

  // What a matrix takes with its scales, and the matrix `at` that many bytes.
  static std::size_t MatrixBytes(DType type, std::int64_t rows, std::int64_t cols);
  cl::Weight MatrixAt(std::uint64_t at, DType type, std::int64_t rows, std::int64_t cols) const;
  // As many as the weights hold, one behind another.
  std::vector<cl::Weight> Matrices(DType type, std::int64_t rows, std::int64_t cols) const;

  ClBuffer Values(std::int64_t count) const;  // f32 in [-1, 1)
  ClBuffer Words(const std::vector<std::int32_t>& words) const;

  // Why so many bytes of weights or of one other buffer cannot be had; empty: they can.
  std::string WhyNot(std::uint64_t weight_bytes, std::uint64_t buffer_bytes) const;

 private:
  const ClDevice& device_;
  std::vector<std::byte> values_;  // what Values repeats
  ClBuffer weights_;
  std::optional<DType> filled_;
};

// A range of a buffer of its own.
inline cl::Span All(const ClBuffer& buffer) { return {buffer.get(), 0}; }

}  // namespace tandem
