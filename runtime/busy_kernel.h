#pragma once

#include "memory/cl_device.h"

namespace tandem {

// A launch that keeps a device busy for a chosen time and touches no memory to speak of: stands for
// a layer's own work where only what surrounds it is measured.
class BusyKernel {
 public:
  // Builds it and measures how fast it goes. Throws OpenClError.
  explicit BusyKernel(const ClDevice& device);
  // Enqueues some `us` microseconds of work, by one work-group.
  void Run(double us);

 private:
  void Launch(cl_int turns);

  const ClDevice& device_;
  ClBuffer out_;
  ClProgramHandle program_;
  ClKernelHandle kernel_;
  double turns_per_us_ = 1;
};

}  // namespace tandem
