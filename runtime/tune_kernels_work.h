#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "cl_kernels/device_traits.h"
#include "memory/cl_device.h"
#include "memory/dtype.h"
#include "runtime/bench_kernels_cases.h"

namespace tandem {

// What a shape of kernels is timed on.
struct ShapeWork {
  enum class Kind : std::uint8_t { kProduct, kExperts, kManyExperts, kNorm };
  Kind kind = Kind::kProduct;
  std::int64_t rows = 1;  // of x; of kManyExperts: as the grid has them
  bool operator==(const ShapeWork&) const = default;
};

// A tunable and the values that are worth a trial on a device with these traits.
struct ShapeAxis {
  std::string_view tunable;
  std::vector<std::int64_t> values;
};
std::vector<ShapeAxis> AxesFor(const cl::DeviceTraits& traits);

// What runs otherwise once the tunable goes from one value to another.
std::vector<ShapeWork> WorkOf(std::string_view tunable, std::int64_t from, std::int64_t to,
                              const cl::DeviceTraits& traits);
// What stands for a model: a row, a few, many, and experts.
std::vector<ShapeWork> WholeWork();

// The cases of bench_kernels_cases.h for some work, in shapes that suit the device, with weights of
// each format in memory of their own.
class ShapeCases {
 public:
  ShapeCases(const ClDevice& device, std::vector<DType> formats, bool quick);

  // In all formats that memory suffices for. They use this object's memory.
  std::vector<KernelCase> For(const std::vector<ShapeWork>& work);

 private:
  std::vector<KernelCase> Of(const ShapeWork& work, DType format);

  std::vector<DType> formats_;
  KernelGrid grid_;
  std::map<DType, BenchMemory> memory_;
};

}  // namespace tandem
