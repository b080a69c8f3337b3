#pragma once

#include <cstddef>

#include "memory/cl_device.h"

namespace tandem {

// How fast a kernel streams device memory: the bound of decode there. The kernel adds up float4;
// neighbouring work-items read neighbouring vectors, or on a CPU each item a range of its own.
class DeviceRead {
 public:
  // Reads the first `bytes` of `memory`, rounded down to what the work-items share out evenly.
  DeviceRead(const ClDevice& device, cl_mem memory, std::size_t bytes);

  // Reads everything once; bytes per second.
  double Measure() const;

 private:
  const ClDevice& device_;
  std::size_t items_;
  std::size_t local_;
  std::size_t per_item_;  // float4
  ClBuffer sums_;
  ClProgramHandle program_;
  ClKernelHandle kernel_;
};

}  // namespace tandem
