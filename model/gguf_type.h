#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "memory/dtype.h"

namespace tandem {

// A tensor type of GGUF, by the number that files give it.
struct GgufTensorType {
  std::uint32_t id = 0;
  std::string_view name;      // ggml's: "Q4_K"
  std::int64_t elements = 1;  // of a block
  std::uint64_t bytes = 0;  // of a block; 0: no file should have it, or its size is not known here
  DType dtype = DType::kOther;  // kOther: known, and of no use as a weight here
};

// Null for a number that stands for nothing.
const GgufTensorType* FindGgufType(std::uint32_t id);
// The type that a weight format has in files; null for FP8, which GGUF has not.
const GgufTensorType* FindGgufType(DType dtype);

// "F32, F16, BF16, Q8_0, ...": the types of which weights load.
std::string LoadableGgufTypes();

}  // namespace tandem
