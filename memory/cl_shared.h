#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "memory/cl_device.h"

namespace tandem {

// How host and device come to see each other's writes while a kernel runs.
enum class SharedKind {
  kNvHost,  // cl_nv_create_buffer: host-located memory that kernels reach over PCIe
  kSvm,     // fine-grained shared virtual memory
  kMapped,  // the mapping of a plain buffer is the memory: CPU devices
};
std::string_view Name(SharedKind kind);

// Memory that the host and a running kernel both read and write; zeroed at first. Order between a
// payload and its flag is the caller's: acquire and release on the host, a system-scope fence in
// the kernel (cl_kernels/hand_over.cl).
class ClSharedBuffer {
 public:
  ClSharedBuffer() = default;
  ClSharedBuffer(ClSharedBuffer&&) noexcept;
  ClSharedBuffer& operator=(ClSharedBuffer&&) noexcept;
  ~ClSharedBuffer();

  std::byte* host() const { return host_; }
  cl_mem mem() const { return mem_.get(); }
  std::size_t bytes() const { return bytes_; }
  SharedKind kind() const { return kind_; }

  // nullopt where the device has no such memory. Throws OpenClError where it has but it is not
  // enough.
  static std::optional<ClSharedBuffer> Allocate(const ClDevice& device, std::size_t bytes);

 private:
  ClMemHandle mem_;
  std::byte* host_ = nullptr;
  std::size_t bytes_ = 0;
  SharedKind kind_ = SharedKind::kMapped;
  cl_command_queue queue_ = nullptr;  // retained, to unmap
  cl_context context_ = nullptr;      // retained, to free SVM
};

// Host memory that the device copies from and to at full speed (CL_MEM_ALLOC_HOST_PTR, mapped for
// as long as this lives). Not shared: a copy is always a command.
class ClPinned {
 public:
  ClPinned() = default;
  ClPinned(const ClDevice& device, std::size_t bytes);  // throws OpenClError
  ClPinned(ClPinned&&) noexcept;
  ClPinned& operator=(ClPinned&&) noexcept;
  ~ClPinned();

  std::byte* host() const { return host_; }
  std::size_t bytes() const { return bytes_; }

 private:
  ClMemHandle mem_;
  std::byte* host_ = nullptr;
  std::size_t bytes_ = 0;
  cl_command_queue queue_ = nullptr;  // retained, to unmap
};

}  // namespace tandem
