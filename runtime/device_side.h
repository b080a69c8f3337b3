#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"
#include "placement/plan.h"
#include "placement/scratch.h"
#include "runtime/batch.h"
#include "runtime/hand_over.h"
#include "runtime/metrics.h"

namespace tandem {

// The device half of an engine: the opened device, its kernels, and scratch buffers by name.
class DeviceSide {
 public:
  // Opens it. Throws OpenClError if it is not there any more.
  explicit DeviceSide(const PlanDevice& plan);

  // From here on waits are those of a load: each is for one copy, or one kernel's first use.
  void WatchLoad() const;

  // Allocates the buffers of placement/scratch.h's list, in place of those before.
  void AllocateScratch(const std::vector<ScratchBuffer>& buffers);
  bool HasScratch(const std::string& name) const { return scratch_.contains(name); }
  // A buffer of the list; it is an internal error if it is not there.
  cl::Span Scratch(const std::string& name) const;
  std::uint64_t ScratchBytes(const std::string& name) const;  // 0: not there

  std::uint64_t scratch_bytes() const;

  // Where the batch's parts are in the device's buffer of it, once that is copied there whole.
  void PlaceBatch(Batch& batch) const;
  // Copies what the kernels need of a batch, in one transfer. The batch's memory must live until
  // the device is done with it.
  void Upload(Batch& batch);
  // A non-blocking read; Wait for its event.
  ClEventHandle Read(const cl::Span& src, void* dst, std::size_t bytes) const;
  void Wait(const std::vector<cl_event>& events);

  ClDevice device;
  cl::Kernels kernels;
  Metrics metrics;
  // Where layers pass between the device and the team; null: none does.
  std::unique_ptr<HandOver> hand_over;

 private:
  std::map<std::string, ClBuffer> scratch_;
};

}  // namespace tandem
