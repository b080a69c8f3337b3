#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory/dtype.h"

namespace tandem {

// The first block (of a scalar format: value) that holds a NaN or an infinity, or -1. Of a block
// format only the scales can: a code always stands for a number. FP8 scales are f32 of their own.
// `bytes` are whole blocks of a floating-point weight format, or F64.
std::int64_t FirstNotFinite(DType format, std::span<const std::byte> bytes);

// Whether FirstNotFinite knows the format: integers are always finite.
bool CanBeNotFinite(DType format);

}  // namespace tandem
