#pragma once

#include <cstddef>
#include <memory>

#include "memory/usage.h"

namespace tandem {

// The whole mapping behind a HostBuffer, of which the aligned part is used.
struct Unmap {
  void* base = nullptr;
  std::size_t mapped = 0;
  void operator()(void* /*data*/) const noexcept;
};

// Anonymous memory straight from the kernel: zeroed on first touch, huge pages advised from 2 MiB
// up, bound to one NUMA node when asked. Weights, KV cache and scratch live in these.
class HostBuffer {
 public:
  static constexpr int kAnyNode = -1;

  HostBuffer() = default;
  // Throws SystemError naming the bytes if the kernel refuses. A binding that the kernel refuses
  // (containers without the capability) leaves the memory unbound and bound() false.
  explicit HostBuffer(std::size_t bytes, int node = kAnyNode);

  // Gives the whole pages of a range back to the system and no longer counts its bytes, until
  // Reuse takes the range again. Its values are lost.
  void Discard(std::size_t offset, std::size_t bytes);
  void Reuse(std::size_t bytes) { counted_.Grow(bytes); }

  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  std::size_t bytes() const { return bytes_; }
  bool bound() const { return bound_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data());
  }

 private:
  std::unique_ptr<void, Unmap> memory_;
  CountedBytes counted_;
  std::size_t bytes_ = 0;
  bool bound_ = false;
};

}  // namespace tandem
