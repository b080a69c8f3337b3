#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "placement/plan.h"
#include "runtime/batch.h"
#include "runtime/metrics.h"

namespace tandem {

// The device half of an engine: the opened device, its kernels, and scratch buffers by name.
class DeviceSide {
 public:
  // Opens plan.devices[0]. Throws OpenClError if it is not there any more.
  explicit DeviceSide(const PlanDevice& plan);

  // A buffer of at least `floats` f32 (or i32) values that lives as long as this; grows by being
  // replaced, which is only legal before the first step. One per name.
  cl::Span Scratch(const std::string& name, std::int64_t floats);

  // Copies what the kernels need of a batch, in one transfer.
  void Upload(Batch& batch);
  // A non-blocking read; Wait for its event.
  ClEventHandle Read(const cl::Span& src, void* dst, std::size_t bytes) const;
  void Wait(const std::vector<cl_event>& events);

  ClDevice device;
  cl::Kernels kernels;
  Metrics metrics;

 private:
  std::map<std::string, ClBuffer> scratch_;
  std::vector<std::int32_t> batch_words_;
};

}  // namespace tandem
