#include "memory/usage.h"

#include <array>
#include <atomic>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace tandem {
namespace {

constexpr int kMostDevices = 63;  // devices with a higher index share the last sum

struct Sum {
  std::atomic<std::uint64_t> now{0};
  std::atomic<std::uint64_t> peak{0};

  void Add(std::uint64_t bytes) {
    const std::uint64_t sum = now.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::uint64_t seen = peak.load(std::memory_order_relaxed);
    while (sum > seen && !peak.compare_exchange_weak(seen, sum, std::memory_order_relaxed)) {
    }
  }
  void Subtract(std::uint64_t bytes) { now.fetch_sub(bytes, std::memory_order_relaxed); }
};

Sum& SumOf(int device) {
  static std::array<Sum, kMostDevices + 1> sums;
  return sums[device < kMostDevices ? device + 1 : kMostDevices];
}

}  // namespace

CountedBytes::CountedBytes(int device, std::size_t bytes) : device_(device), bytes_(bytes) {
  SumOf(device_).Add(bytes_);
}

CountedBytes::CountedBytes(CountedBytes&& other) noexcept
    : device_(other.device_), bytes_(std::exchange(other.bytes_, 0)) {}

CountedBytes& CountedBytes::operator=(CountedBytes&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

CountedBytes::~CountedBytes() { SumOf(device_).Subtract(bytes_); }

void CountedBytes::Grow(std::size_t bytes) {
  SumOf(device_).Add(bytes);
  bytes_ += bytes;
}

void CountedBytes::Shrink(std::size_t bytes) {
  SumOf(device_).Subtract(bytes);
  bytes_ -= bytes;
}

std::uint64_t HostBufferBytes() { return SumOf(CountedBytes::kHost).now.load(); }
std::uint64_t DeviceBufferBytes(int device) { return SumOf(device).now.load(); }
std::uint64_t PeakHostBufferBytes() { return SumOf(CountedBytes::kHost).peak.load(); }
std::uint64_t PeakDeviceBufferBytes(int device) { return SumOf(device).peak.load(); }

ResidentBytes ReadResidentBytes() {
  ResidentBytes bytes;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kib = 0;
    words >> key >> kib;
    if (key == "VmRSS:") bytes.now = kib * 1024;
    if (key == "VmHWM:") bytes.peak = kib * 1024;
  }
  return bytes;
}

}  // namespace tandem
