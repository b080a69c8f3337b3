#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/recipe.h"
#include "model/tensor_source.h"

namespace tandem {

// A format that rows of this length do not fit, and what took its place.
struct UnfitFormat {
  DType wanted;
  DType format;
  std::int64_t cols = 0;
  std::int64_t tensors = 0;
  std::string first;  // name of the first of them
};

// A model in other formats. The tensors are read from the source and quantised when they are read,
// so opening costs nothing and no tensor is ever held as a whole.
struct QuantizedModel {
  Model model;
  std::vector<UnfitFormat> unfit;
};

// The formats of a recipe for loading. kv_b becomes k_b and v_b where it gets a block format: its
// product with a transposed matrix has no block kernels. Tensors that the recipe does not name stay
// as they are, and are read straight from the source.
QuantizedModel Quantized(Model source, const Recipe& recipe);

// How kv_b lies in a GGUF file: files since 2025 hold its two parts, older ones the whole.
enum class KvbForm : std::uint8_t { kSplit, kJoint };

// The same for a GGUF file: vectors and the router are f32, what the recipe does not name keeps its
// format (FP8 becomes bf16), the rows of q and k of multi-head attention are interleaved, an
// embedding that is the head as well is there once, and MTP layers are left out.
QuantizedModel QuantizedForGguf(Model source, const Recipe& recipe, KvbForm kv_b);

// "Q4_K does not fit rows of 1408 values: 52 tensors are Q5_0 (first: NAME)"
std::string Describe(const UnfitFormat& unfit);

}  // namespace tandem
