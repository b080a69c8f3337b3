#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/dtype.h"

namespace tandem {

// Quantises rows [rows, cols] of f32 into the blocks of a block format, as they lie in a file:
// DataBytes(type, rows * cols) bytes at `out`. cols is a multiple of BlockElements(type).
// Minimises the squared error of each block, weighted by importance[c] of the column (mean square
// of the activations that meet it) where that is not null. Pure and single-threaded: the same input
// gives the same bytes. Values must be finite.
void QuantizeRows(DType type, const float* x, std::int64_t rows, std::int64_t cols,
                  const float* importance, std::byte* out);

// The format that takes the place of `type` where a row of `cols` values is not a whole number of
// its blocks, with at least as many bits: K-quants and IQ4_XS fall back to the 32-value formats as
// llama.cpp does (Q2_K, Q3_K, IQ4_XS: IQ4_NL; Q4_K: Q5_0; Q5_K: Q5_1; Q6_K: Q8_0), and a row that
// is no multiple of 32 to F16.
DType FittingFormat(DType type, std::int64_t cols);

}  // namespace tandem
