#include "memory/cl_touch.h"

#include <algorithm>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::size_t kWord = 4;

void Touch(const ClDevice& device, const ClBuffer& buffer) {
  const std::size_t word = std::min(kWord, buffer.bytes() / kWord * kWord);
  device.Zero(buffer.get(), 0, word);
  device.Zero(buffer.get(), (buffer.bytes() - word) / kWord * kWord, word);
  device.Finish();
}

}  // namespace

ClBuffer AllocateTouched(const ClDevice& device, const std::string& what, std::size_t bytes,
                         cl_mem_flags flags) {
  try {
    ClBuffer buffer = device.Allocate(bytes, flags);
    Touch(device, buffer);
    return buffer;
  } catch (const OpenClError& error) {
    const ClDeviceInfo& info = device.info();
    throw DeviceMemoryError(
        fmt::format("the device's buffer '{}' of {} bytes on '{}' (device {}): {}", what, bytes,
                    info.name, info.index, error.what()),
        info.index);
  }
}

}  // namespace tandem
