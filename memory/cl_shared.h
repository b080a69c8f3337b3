#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "memory/cl_device.h"
#include "memory/usage.h"

namespace tandem {

// How host and device come to see each other's writes while a kernel runs.
enum class SharedKind {
  kNvHost,  // cl_nv_create_buffer: host-located memory that kernels reach over PCIe
  kSvm,     // fine-grained shared virtual memory
  kMapped,  // the mapping of a plain buffer is the memory: CPU and integrated devices
};
std::string_view Name(SharedKind kind);

// Memory that the host and a running kernel both read and write; zeroed at first. Order between a
// payload and its flag is the caller's: acquire and release on the host, a system-scope fence in
// the kernel (cl_kernels/hand_over.cl).
class ClSharedBuffer {
 public:
  ClSharedBuffer() = default;
  ClSharedBuffer(ClSharedBuffer&& other) noexcept { Swap(other); }
  ClSharedBuffer& operator=(ClSharedBuffer&& other) noexcept {
    Swap(other);
    return *this;
  }
  ~ClSharedBuffer();

  std::byte* host() const { return host_; }
  cl_mem mem() const { return mem_.get(); }
  std::size_t bytes() const { return bytes_; }
  SharedKind kind() const { return kind_; }

  // nullopt where the device has no such memory. Throws OpenClError where it has but it is not
  // enough.
  static std::optional<ClSharedBuffer> Allocate(const ClDevice& device, std::size_t bytes);
  // The same for one kind of memory, of which Allocate takes the first that the device has.
  static std::optional<ClSharedBuffer> Allocate(const ClDevice& device, std::size_t bytes,
                                                SharedKind kind);

 private:
  ClSharedBuffer(const ClDevice& device, std::size_t bytes, SharedKind kind);
  static std::optional<ClSharedBuffer> AllocateNvHost(const ClDevice& device, std::size_t bytes);
  static std::optional<ClSharedBuffer> AllocateSvm(const ClDevice& device, std::size_t bytes);
  static std::optional<ClSharedBuffer> AllocateMapped(const ClDevice& device, std::size_t bytes);
  void Swap(ClSharedBuffer& other) noexcept;

  ClContextHandle context_;  // retained, to free SVM
  ClQueueHandle queue_;      // retained, to unmap
  ClMemHandle mem_;
  std::byte* host_ = nullptr;
  std::size_t bytes_ = 0;
  SharedKind kind_ = SharedKind::kMapped;
  CountedBytes counted_;
};

// Host memory that the device copies from and to at full speed, mapped for as long as this lives.
// Not shared: a copy is always a command. CL_MEM_ALLOC_HOST_PTR, but where there is
// cl_nv_create_buffer that: NVIDIA's driver backs the former with as many bytes on the device.
class ClPinned {
 public:
  ClPinned() = default;
  ClPinned(const ClDevice& device, std::size_t bytes);  // throws OpenClError
  ClPinned(ClPinned&& other) noexcept { Swap(other); }
  ClPinned& operator=(ClPinned&& other) noexcept {
    Swap(other);
    return *this;
  }
  ~ClPinned();

  std::byte* host() const { return host_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void Swap(ClPinned& other) noexcept;

  ClQueueHandle queue_;  // retained, to unmap
  ClMemHandle mem_;
  std::byte* host_ = nullptr;
  std::size_t bytes_ = 0;
  CountedBytes counted_;
};

}  // namespace tandem
