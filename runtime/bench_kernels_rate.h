#pragma once

#include <string>

#include "memory/cl_device.h"

namespace tandem {

// How fast a device multiplies and adds when nothing else is to be done: chains of products in
// registers, by `mma.sync` in bf16 where `nv_compute` (cl_kernels/device_traits.h) is 80 or more,
// else in f32.
class MatrixRate {
 public:
  MatrixRate(const ClDevice& device, int nv_compute);

  std::string unit() const;  // "mma.sync bf16", "f32 multiply-add"
  double Measure() const;    // operations per second, a multiply-add being two

 private:
  double Run(int turns) const;  // seconds

  const ClDevice& device_;
  bool mma_;
  int width_;  // values of a vector in the f32 form
  std::size_t items_, group_;
  ClBuffer out_;
  ClProgramHandle program_;
  ClKernelHandle kernel_;
};

}  // namespace tandem
