#include "model/gguf_type.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <vector>

namespace tandem {
namespace {

constexpr std::array<GgufTensorType, 37> kTypes{{
    {0, "F32", 1, 4, DType::kF32},
    {1, "F16", 1, 2, DType::kF16},
    {2, "Q4_0", 32, 18, DType::kQ4_0},
    {3, "Q4_1", 32, 20, DType::kQ4_1},
    {6, "Q5_0", 32, 22, DType::kQ5_0},
    {7, "Q5_1", 32, 24, DType::kQ5_1},
    {8, "Q8_0", 32, 34, DType::kQ8_0},
    {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84, DType::kQ2_K},
    {11, "Q3_K", 256, 110, DType::kQ3_K},
    {12, "Q4_K", 256, 144, DType::kQ4_K},
    {13, "Q5_K", 256, 176, DType::kQ5_K},
    {14, "Q6_K", 256, 210, DType::kQ6_K},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18, DType::kIQ4_NL},
    {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136, DType::kIQ4_XS},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2, DType::kBF16},
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17, DType::kMXFP4},
    {40, "NVFP4", 64, 36},
    // Removed from ggml; their files are older than the container's version 2.
    {4, "Q4_2", 1, 0},
    {5, "Q4_3", 1, 0},
    // Of later date than this table.
    {41, "Q1_0", 1, 0},
    {42, "Q2_0", 1, 0},
}};

}  // namespace

const GgufTensorType* FindGgufType(std::uint32_t id) {
  for (const GgufTensorType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

const GgufTensorType* FindGgufType(DType dtype) {
  if (dtype == DType::kOther) return nullptr;
  for (const GgufTensorType& type : kTypes) {
    if (type.dtype == dtype) return &type;
  }
  return nullptr;
}

std::string LoadableGgufTypes() {
  std::vector<std::string_view> names;
  for (const GgufTensorType& type : kTypes) {
    if (type.dtype != DType::kOther) names.push_back(type.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace tandem
