#pragma once

#include <atomic>
#include <cstdint>

#include "memory/cl_device.h"

namespace tandem {

// Words in memory that the host and a running kernel both see (ClSharedBuffer), by which one tells
// the other how far it is.

// Whoever sees the word sees what was written before it.
inline std::uint32_t LoadWord(std::uint32_t* word) {
  return std::atomic_ref(*word).load(std::memory_order_acquire);
}
inline void StoreWord(std::uint32_t* word, std::uint32_t value) {
  std::atomic_ref(*word).store(value, std::memory_order_release);
}

// How often a kernel that waits looks at such a word in about a second: a look is a read over PCIe,
// or of the core's own cache.
inline std::uint64_t TurnsOfSecond(const ClDevice& device) {
  return device.info().is_cpu ? 500'000'000 : 1'000'000;
}

}  // namespace tandem
