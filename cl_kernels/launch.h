#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"
#include "memory/cl_device.h"
#include "memory/error.h"

namespace tandem::cl {

constexpr std::int64_t CeilDiv(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// True where every row of f32 that starts at offset + i * stride can be loaded 16 bytes at a time.
constexpr bool Aligned16(std::int64_t offset, std::int64_t stride) {
  return offset % 4 == 0 && stride % 4 == 0;
}

// Sets a kernel's arguments in order. A Span is two: its buffer and its offset. Another struct is
// one, laid out as the kernel has it.
class Arguments {
 public:
  explicit Arguments(cl_kernel kernel) : kernel_(kernel) {}

  template <class... A>
  void Set(const A&... args) {
    (One(args), ...);
  }

 private:
  template <class T>
  void One(const T& value) {
    if constexpr (std::is_same_v<T, Span>) {
      One(value.buffer);
      One(static_cast<cl_long>(value.offset));
    } else {
      static_assert(std::is_same_v<T, cl_mem> || std::is_same_v<T, cl_int> ||
                    std::is_same_v<T, cl_long> || std::is_same_v<T, cl_ulong> ||
                    std::is_same_v<T, float> ||
                    (std::is_class_v<T> && std::is_trivially_copyable_v<T>));
      ClCheck(clSetKernelArg(kernel_, index_++, sizeof(value), &value), "clSetKernelArg", kernel_);
    }
  }
  cl_kernel kernel_;
  cl_uint index_ = 0;
};

// Enqueues `groups` work-groups of (group_size, 1, 1) items.
inline void Enqueue(const Programs& programs, cl_kernel kernel, std::array<std::int64_t, 3> groups,
                    std::int64_t group_size) {
  const std::array<std::size_t, 3> local{static_cast<std::size_t>(group_size), 1, 1};
  const std::array<std::size_t, 3> global{static_cast<std::size_t>(groups[0] * group_size),
                                          static_cast<std::size_t>(groups[1]),
                                          static_cast<std::size_t>(groups[2])};
  const cl_int error = clEnqueueNDRangeKernel(programs.device().queue(), kernel, 3, nullptr,
                                              global.data(), local.data(), 0, nullptr, nullptr);
  if (error == CL_SUCCESS) return;
  ThrowCl(error,
          fmt::format("cannot start kernel '{}' of {} x {} x {} work-groups of {} on '{}': {}",
                      ClKernelName(kernel), groups[0], groups[1], groups[2], group_size,
                      programs.device().info().name, ClErrorName(error)));
}

}  // namespace tandem::cl
