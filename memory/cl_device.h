#pragma once

#include <CL/cl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "memory/cl_wait.h"
#include "memory/usage.h"

namespace tandem {

// What one OpenCL device says of itself. `index` is its place in the list of all devices of all
// platforms, the number that --device takes.
struct ClDeviceInfo {
  int index = 0;
  int platform_index = 0;  // position in clGetPlatformIDs and clGetDeviceIDs
  int device_index = 0;
  std::string name;
  std::string vendor;
  std::string platform;
  std::string platform_version;
  std::string driver_version;
  std::string device_version;
  std::string opencl_c_version;
  std::string extensions;
  std::string pci_address;  // "0000:18:00.0", empty where the device does not tell
  bool is_cpu = false;      // shares the cores with the CPU kernels (PoCL)
  std::uint64_t global_mem_bytes = 0;
  std::uint64_t max_alloc_bytes = 0;
  std::uint64_t local_mem_bytes = 0;
  std::uint32_t compute_units = 0;
  std::uint32_t clock_mhz = 0;
  std::uint64_t max_work_group_size = 0;
};

struct ClProbe {
  std::vector<ClDeviceInfo> devices;
  std::string problem;  // why the list is empty or short, in words for a person; empty if nothing
};

// Lists every OpenCL device. Runs in a child process, because an installed driver may crash or hang
// while platforms are listed (10 s limit); never throws for a missing or broken driver.
ClProbe ProbeClDevices();

// Whether a device of this process hangs (ClDevice::Hangs). Then the process must end by _exit: a
// driver may wait for its queues at exit.
bool AnyClDeviceHangs();

// "cl_mem", "cl_program", ... with their release function: pointer-sized owners. Where a device
// hangs nothing is released any more: drivers wait for a queue before they free what it may use.
template <class Handle, auto Release>
struct ClDeleter {
  void operator()(Handle handle) const noexcept {
    if (!AnyClDeviceHangs()) static_cast<void>(Release(handle));
  }
};
template <class Handle, auto Release>
using ClUnique = std::unique_ptr<std::remove_pointer_t<Handle>, ClDeleter<Handle, Release>>;
using ClContextHandle = ClUnique<cl_context, clReleaseContext>;
using ClQueueHandle = ClUnique<cl_command_queue, clReleaseCommandQueue>;
using ClProgramHandle = ClUnique<cl_program, clReleaseProgram>;
using ClKernelHandle = ClUnique<cl_kernel, clReleaseKernel>;
using ClMemHandle = ClUnique<cl_mem, clReleaseMemObject>;
using ClEventHandle = ClUnique<cl_event, clReleaseEvent>;
static_assert(sizeof(ClMemHandle) == sizeof(void*));

// "CL_OUT_OF_RESOURCES" for -5, ...
std::string ClErrorName(cl_int error);
class ClDevice;
// Throws the error's class: DeviceLostError for what a context does not survive, DeviceMemoryError
// for a buffer that found no room, else OpenClError.
[[noreturn]] void ThrowCl(cl_int error, const std::string& message);
// Throws it with "<what>: CL_... on '<device>'" unless error is CL_SUCCESS.
void ClCheck(cl_int error, const char* what);
void ClCheck(cl_int error, const char* what, const ClDevice& device);
// The same of a call for a kernel, "<what> of kernel '<name>': CL_... on '<device>'".
void ClCheck(cl_int error, const char* what, cl_kernel kernel);

// "?" where the driver does not say.
std::string ClKernelName(cl_kernel kernel);

// An owned range of device memory.
class ClBuffer {
 public:
  ClBuffer() = default;
  ClBuffer(ClMemHandle mem, std::size_t bytes, int device)
      : mem_(std::move(mem)), bytes_(bytes), counted_(device, bytes) {}
  cl_mem get() const { return mem_.get(); }
  std::size_t bytes() const { return bytes_; }
  explicit operator bool() const { return mem_ != nullptr; }

 private:
  ClMemHandle mem_;
  std::size_t bytes_ = 0;
  CountedBytes counted_;
};

// One opened device: context and one in-order queue. Every call but Finish and the blocking forms
// only enqueues. Read/Write are for one thread at a time; BlockingWrite may be called from several
// threads (weights are loaded so), each waiting for its own copy.
class ClDevice {
 public:
  explicit ClDevice(const ClDeviceInfo& info);  // throws OpenClError
  ~ClDevice();

  const ClDeviceInfo& info() const { return info_; }
  cl_context context() const { return context_.get(); }
  cl_device_id id() const { return id_; }
  cl_command_queue queue() const { return queue_.get(); }

  // Throws OpenClError naming the bytes asked for, max_alloc_bytes and the device.
  ClBuffer Allocate(std::size_t bytes, cl_mem_flags flags = CL_MEM_READ_WRITE) const;

  void Write(cl_mem dst, std::size_t offset, const void* src,
             std::size_t bytes) const;  // enqueued; src must live until Finish
  void BlockingWrite(cl_mem dst, std::size_t offset, const void* src, std::size_t bytes) const;
  void BlockingRead(cl_mem src, std::size_t offset, void* dst, std::size_t bytes) const;
  void Zero(cl_mem dst, std::size_t offset, std::size_t bytes) const;  // bytes % 4 == 0; enqueued
  void Copy(cl_mem src, std::size_t src_offset, cl_mem dst, std::size_t dst_offset,
            std::size_t bytes) const;  // enqueued
  void Flush() const;                  // start what is enqueued
  void Finish() const;                 // wait for all of it

  // From here on Finish, Await and the blocking forms wait at most so long and throw
  // DeviceLostError that names `what`; 0: for ever. `WhenOver::kHangs`: nothing that the host could
  // still do would end the wait, so the device counts as hanging.
  enum class WhenOver : std::uint8_t { kLost, kHangs };
  void Watch(Seconds limit, const std::string& what, WhenOver over = WhenOver::kLost) const;
  // Waits for an event of a command that was flushed.
  void Await(cl_event event) const;
  // Throws DeviceLostError if the command of that event failed, or one that it waited for.
  void CheckNotFailed(cl_event event) const;
  // Ends what its queues hold, errors ignored, so that host memory under their copies may go. False
  // where that takes longer than `limit`: the device hangs.
  bool Drain(Seconds limit) const noexcept;
  // A queue did not end in time. Nothing of this device may be released or freed any more: drivers
  // wait for a queue before they free its memory. Whoever owns such a device leaks it.
  bool Hangs() const;

 private:
  friend class ClSideQueue;
  void AwaitAfter(cl_event event, Seconds spin) const;
  bool Ended(cl_event event) const;
  struct Watchdog;
  ClDeviceInfo info_;
  cl_device_id id_ = nullptr;
  ClContextHandle context_;
  ClQueueHandle queue_;
  std::unique_ptr<Watchdog> watchdog_;
};

// A further in-order queue of a device, for copies beside its own queue. Drain ends it with the
// others, and so does its end.
class ClSideQueue {
 public:
  ClSideQueue(const ClDevice& device, Seconds drain_limit);  // throws OpenClError
  ~ClSideQueue();
  ClSideQueue(const ClSideQueue&) = delete;
  ClSideQueue& operator=(const ClSideQueue&) = delete;
  cl_command_queue get() const { return queue_.get(); }

 private:
  const ClDevice& device_;
  Seconds drain_limit_;
  ClQueueHandle queue_;
};

}  // namespace tandem
