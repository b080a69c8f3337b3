#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/dtype.h"
#include "model/tensor_source.h"

namespace tandem {

// A vector counts as one row.
std::int64_t MatrixRows(const TensorInfo& tensor);
std::int64_t MatrixCols(const TensorInfo& tensor);

// Rows [row0, row0 + rows) of a tensor in any weight format as f32, FP8 with its scales.
void ReadRows(const TensorSource& source, const TensorInfo& tensor, std::int64_t row0,
              std::int64_t rows, float* out);

// The other way: f32, bf16, f16 or a block format, rounded to nearest even or quantised.
// importance [cols] as QuantizeRows takes it, may be null.
void WriteRows(DType format, const float* x, std::int64_t rows, std::int64_t cols,
               const float* importance, std::byte* out);

}  // namespace tandem
