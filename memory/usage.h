#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem {

// Adds bytes to a process-wide sum for as long as it lives; moving moves them. HostBuffer and
// ClBuffer hold one each, so that what is really allocated can be compared with what was planned.
class CountedBytes {
 public:
  static constexpr int kHost = -1;

  CountedBytes() = default;
  // `device`: ClDeviceInfo::index, or kHost.
  CountedBytes(int device, std::size_t bytes);
  CountedBytes(CountedBytes&& other) noexcept;
  CountedBytes& operator=(CountedBytes&& other) noexcept;
  ~CountedBytes();

  void Grow(std::size_t bytes);
  void Shrink(std::size_t bytes);

 private:
  int device_ = kHost;
  std::size_t bytes_ = 0;
};

// Bytes that all HostBuffers of the process map now.
std::uint64_t HostBufferBytes();
// Bytes that all ClBuffers on one device hold now.
std::uint64_t DeviceBufferBytes(int device);
// The most of both at once since the process began.
std::uint64_t PeakHostBufferBytes();
std::uint64_t PeakDeviceBufferBytes(int device);

// What the system says of this process: VmRSS and VmHWM of /proc/self/status, 0 where it is absent.
struct ResidentBytes {
  std::uint64_t now = 0;
  std::uint64_t peak = 0;
};
ResidentBytes ReadResidentBytes();

}  // namespace tandem
