#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "cl_kernels/device_traits.h"

namespace tandem::cl {

// How the programs over matmul.cl are launched, from the kernels' names on: the same for linear,
// the two halves of the experts, and heads.
struct MatmulForms {
  std::string_view few_1, few_1_narrow, few, few_narrow, many;
};

struct MatmulLaunch {
  std::string_view kernel;
  std::array<std::int64_t, 3> groups;
  std::int64_t group_size;
};

// For `rows` rows against N weight rows, `batch` times side by side (heads, jobs).
MatmulLaunch ChooseMatmul(const MatmulForms& forms, const DeviceTraits& traits, std::int64_t rows,
                          std::int64_t N, std::int64_t batch);

}  // namespace tandem::cl
