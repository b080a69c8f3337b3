#pragma once

#include <cstddef>
#include <vector>

#include "memory/cl_device.h"

namespace tandem {

// Memory of the host that somebody else owns, made known to a device for as long as this lives:
// CL_MEM_USE_HOST_PTR, by which drivers that copy with DMA lock it, so that a plain write of a
// buffer from it needs no copy by the CPU. (NVIDIA: 54.7 instead of 7.8 GB/s; its driver takes no
// memory of the device for buffers that no command uses.) No command uses the buffers.
class ClInPlace {
 public:
  ClInPlace() = default;

  // False where the driver refuses; what was locked before stays.
  bool Lock(const ClDevice& device, const std::byte* data, std::size_t bytes);
  std::size_t bytes() const { return bytes_; }
  // How many of these bytes one copy takes by DMA: those up to the end of the part that `from` lies
  // in. (NVIDIA copies what lies in two at 6.8 GB/s.) All, where nothing is locked.
  std::size_t Together(const std::byte* from, std::size_t bytes) const;

 private:
  struct Part {  // none above the device's largest buffer
    const std::byte* begin;
    std::size_t bytes;
    ClMemHandle buffer;
  };
  std::vector<Part> parts_;
  std::size_t bytes_ = 0;
};

}  // namespace tandem
