#include "memory/cl_in_place.h"

#include <algorithm>
#include <functional>

namespace tandem {
namespace {

constexpr std::size_t kPartBytes = std::size_t{1} << 30;

}  // namespace

bool ClInPlace::Lock(const ClDevice& device, const std::byte* data, std::size_t bytes) {
  const std::size_t most = std::min<std::size_t>(kPartBytes, device.info().max_alloc_bytes);
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t part = std::min(most, bytes - done);
    cl_int error = CL_SUCCESS;
    // OpenCL takes the address as writable; these are read alone.
    void* const at = const_cast<std::byte*>(data + done);
    ClMemHandle mem(
        clCreateBuffer(device.context(), CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR, part, at, &error));
    if (error != CL_SUCCESS) return false;
    parts_.push_back({data + done, part, std::move(mem)});
    bytes_ += part;
    done += part;
  }
  return true;
}

std::size_t ClInPlace::Together(const std::byte* from, std::size_t bytes) const {
  const auto it = std::ranges::find_if(parts_, [&](const Part& part) {
    return !std::less<>{}(from, part.begin) && std::less<>{}(from, part.begin + part.bytes);
  });
  if (it == parts_.end()) return bytes;
  return std::min(bytes, static_cast<std::size_t>(it->begin + it->bytes - from));
}

}  // namespace tandem
