#include "memory/cl_device.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "memory/cl_probe.h"
#include "memory/error.h"

namespace tandem {
namespace {

struct ErrorRow {
  cl_int code;
  const char* name;
};
#define TANDEM_CL_ERROR(name) \
  ErrorRow { name, #name }
constexpr std::array kErrors{
    TANDEM_CL_ERROR(CL_SUCCESS),
    TANDEM_CL_ERROR(CL_DEVICE_NOT_FOUND),
    TANDEM_CL_ERROR(CL_DEVICE_NOT_AVAILABLE),
    TANDEM_CL_ERROR(CL_COMPILER_NOT_AVAILABLE),
    TANDEM_CL_ERROR(CL_MEM_OBJECT_ALLOCATION_FAILURE),
    TANDEM_CL_ERROR(CL_OUT_OF_RESOURCES),
    TANDEM_CL_ERROR(CL_OUT_OF_HOST_MEMORY),
    TANDEM_CL_ERROR(CL_PROFILING_INFO_NOT_AVAILABLE),
    TANDEM_CL_ERROR(CL_MEM_COPY_OVERLAP),
    TANDEM_CL_ERROR(CL_IMAGE_FORMAT_MISMATCH),
    TANDEM_CL_ERROR(CL_IMAGE_FORMAT_NOT_SUPPORTED),
    TANDEM_CL_ERROR(CL_BUILD_PROGRAM_FAILURE),
    TANDEM_CL_ERROR(CL_MAP_FAILURE),
    TANDEM_CL_ERROR(CL_MISALIGNED_SUB_BUFFER_OFFSET),
    TANDEM_CL_ERROR(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST),
    TANDEM_CL_ERROR(CL_COMPILE_PROGRAM_FAILURE),
    TANDEM_CL_ERROR(CL_LINKER_NOT_AVAILABLE),
    TANDEM_CL_ERROR(CL_LINK_PROGRAM_FAILURE),
    TANDEM_CL_ERROR(CL_DEVICE_PARTITION_FAILED),
    TANDEM_CL_ERROR(CL_KERNEL_ARG_INFO_NOT_AVAILABLE),
    TANDEM_CL_ERROR(CL_INVALID_VALUE),
    TANDEM_CL_ERROR(CL_INVALID_DEVICE_TYPE),
    TANDEM_CL_ERROR(CL_INVALID_PLATFORM),
    TANDEM_CL_ERROR(CL_INVALID_DEVICE),
    TANDEM_CL_ERROR(CL_INVALID_CONTEXT),
    TANDEM_CL_ERROR(CL_INVALID_QUEUE_PROPERTIES),
    TANDEM_CL_ERROR(CL_INVALID_COMMAND_QUEUE),
    TANDEM_CL_ERROR(CL_INVALID_HOST_PTR),
    TANDEM_CL_ERROR(CL_INVALID_MEM_OBJECT),
    TANDEM_CL_ERROR(CL_INVALID_BINARY),
    TANDEM_CL_ERROR(CL_INVALID_BUILD_OPTIONS),
    TANDEM_CL_ERROR(CL_INVALID_PROGRAM),
    TANDEM_CL_ERROR(CL_INVALID_PROGRAM_EXECUTABLE),
    TANDEM_CL_ERROR(CL_INVALID_KERNEL_NAME),
    TANDEM_CL_ERROR(CL_INVALID_KERNEL_DEFINITION),
    TANDEM_CL_ERROR(CL_INVALID_KERNEL),
    TANDEM_CL_ERROR(CL_INVALID_ARG_INDEX),
    TANDEM_CL_ERROR(CL_INVALID_ARG_VALUE),
    TANDEM_CL_ERROR(CL_INVALID_ARG_SIZE),
    TANDEM_CL_ERROR(CL_INVALID_KERNEL_ARGS),
    TANDEM_CL_ERROR(CL_INVALID_WORK_DIMENSION),
    TANDEM_CL_ERROR(CL_INVALID_WORK_GROUP_SIZE),
    TANDEM_CL_ERROR(CL_INVALID_WORK_ITEM_SIZE),
    TANDEM_CL_ERROR(CL_INVALID_GLOBAL_OFFSET),
    TANDEM_CL_ERROR(CL_INVALID_EVENT_WAIT_LIST),
    TANDEM_CL_ERROR(CL_INVALID_EVENT),
    TANDEM_CL_ERROR(CL_INVALID_OPERATION),
    TANDEM_CL_ERROR(CL_INVALID_BUFFER_SIZE),
    TANDEM_CL_ERROR(CL_INVALID_GLOBAL_WORK_SIZE),
    TANDEM_CL_ERROR(CL_INVALID_PROPERTY),
    TANDEM_CL_ERROR(CL_INVALID_COMPILER_OPTIONS),
    TANDEM_CL_ERROR(CL_INVALID_LINKER_OPTIONS),
    ErrorRow{-1001, "CL_PLATFORM_NOT_FOUND_KHR"},
    ErrorRow{-9999, "CL_ILLEGAL_READ_OR_WRITE_NV"},
};
#undef TANDEM_CL_ERROR

void CheckOn(cl_int error, const char* what, const ClDeviceInfo& info) {
  if (error == CL_SUCCESS) return;
  ThrowCl(error, fmt::format("{}: {} on '{}'", what, ClErrorName(error), info.name));
}

// After these a context is of no use, or a command of it failed and nobody knows which.
bool MeansLost(cl_int error) {
  constexpr cl_int kIllegalAccessNv = -9999;
  constexpr std::array kLost{CL_DEVICE_NOT_AVAILABLE,
                             CL_OUT_OF_RESOURCES,
                             CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST,
                             CL_INVALID_CONTEXT,
                             CL_INVALID_COMMAND_QUEUE,
                             kIllegalAccessNv};
  return std::find(kLost.begin(), kLost.end(), error) != kLost.end();
}

std::string DeviceName(cl_kernel kernel) {
  cl_context context = nullptr;
  cl_device_id id = nullptr;  // a context has one here
  if (clGetKernelInfo(kernel, CL_KERNEL_CONTEXT, sizeof(context), &context, nullptr) !=
          CL_SUCCESS ||
      clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof(id), &id, nullptr) != CL_SUCCESS) {
    return "?";
  }
  return ClDeviceString(id, CL_DEVICE_NAME);
}

// Waiting for a device costs the host nothing else to do: a spin as long as most steps take.
constexpr Seconds kFinishSpin{2e-2};
// Many threads write at once, each beside others that read files.
constexpr Seconds kCopySpin{1e-5};

std::atomic<bool>& AnyHangs() {
  static std::atomic<bool> hangs{false};
  return hangs;
}

// The device that `info` described when it was probed; the list may have changed since.
cl_device_id FindDevice(const ClDeviceInfo& info) {
  const std::vector<cl_platform_id> platforms = ListClPlatforms();
  if (info.platform_index < 0 || info.platform_index >= std::ssize(platforms)) {
    Throw<OpenClError>(
        "OpenCL device {} '{}': platform {} is gone, {} are left; list the devices again",
        info.index, info.name, info.platform_index, platforms.size());
  }
  const std::vector<cl_device_id> devices = ListClDevices(platforms[info.platform_index]);
  if (info.device_index < 0 || info.device_index >= std::ssize(devices)) {
    Throw<OpenClError>("OpenCL device {} '{}': its platform has {} devices now; list them again",
                       info.index, info.name, devices.size());
  }
  const cl_device_id id = devices[info.device_index];
  const std::string name = ClDeviceString(id, CL_DEVICE_NAME);
  if (name != info.name) {
    Throw<OpenClError>("OpenCL device {}: expected '{}', found '{}'; list the devices again",
                       info.index, info.name, name);
  }
  return id;
}

}  // namespace

std::string ClErrorName(cl_int error) {
  for (const ErrorRow& row : kErrors) {
    if (row.code == error) return row.name;
  }
  return fmt::format("OpenCL error {}", error);
}

// Nothing but the names: this is asked after an error, which may be of the driver itself.
std::string ClKernelName(cl_kernel kernel) {
  std::array<char, 256> name{};
  const cl_int error =
      clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, name.size() - 1, name.data(), nullptr);
  return error == CL_SUCCESS ? name.data() : "?";
}

void ThrowCl(cl_int error, const std::string& message) {
  if (MeansLost(error)) throw DeviceLostError(message);
  if (error == CL_MEM_OBJECT_ALLOCATION_FAILURE) throw DeviceMemoryError(message);
  throw OpenClError(message);
}

void ClCheck(cl_int error, const char* what) {
  if (error != CL_SUCCESS) ThrowCl(error, fmt::format("{}: {}", what, ClErrorName(error)));
}

void ClCheck(cl_int error, const char* what, const ClDevice& device) {
  CheckOn(error, what, device.info());
}

void ClCheck(cl_int error, const char* what, cl_kernel kernel) {
  if (error == CL_SUCCESS) return;
  ThrowCl(error, fmt::format("{} of kernel '{}': {} on '{}'", what, ClKernelName(kernel),
                             ClErrorName(error), DeviceName(kernel)));
}

bool AnyClDeviceHangs() { return AnyHangs(); }

struct ClDevice::Watchdog {
  Seconds limit{0};
  std::string what;
  WhenOver over = WhenOver::kLost;
  std::vector<cl_command_queue> side_queues;
  std::atomic<bool> hangs{false};

  void Hang() {
    hangs = true;
    AnyHangs() = true;
  }
};

ClDevice::ClDevice(const ClDeviceInfo& info)
    : info_(info), id_(FindDevice(info)), watchdog_(std::make_unique<Watchdog>()) {
  NoteClDeviceOpened();
  cl_int error = CL_SUCCESS;
  context_.reset(clCreateContext(nullptr, 1, &id_, nullptr, nullptr, &error));
  CheckOn(error, "clCreateContext", info_);
  queue_.reset(clCreateCommandQueue(context_.get(), id_, 0, &error));
  CheckOn(error, "clCreateCommandQueue", info_);
}

ClDevice::~ClDevice() = default;

ClBuffer ClDevice::Allocate(std::size_t bytes, cl_mem_flags flags) const {
  cl_int error = CL_INVALID_BUFFER_SIZE;  // what the driver says of 0 or too many bytes
  ClMemHandle mem;
  if (bytes > 0 && bytes <= info_.max_alloc_bytes) {
    mem.reset(clCreateBuffer(context_.get(), flags, bytes, nullptr, &error));
  }
  if (error != CL_SUCCESS) {
    Throw<DeviceMemoryError>(
        "cannot allocate {} bytes on '{}': {} (largest buffer {} bytes, memory {} bytes); give the "
        "device less in the profile",
        bytes, info_.name, ClErrorName(error), info_.max_alloc_bytes, info_.global_mem_bytes);
  }
  return {std::move(mem), bytes, info_.index};
}

void ClDevice::Write(cl_mem dst, std::size_t offset, const void* src, std::size_t bytes) const {
  if (bytes == 0) return;
  CheckOn(clEnqueueWriteBuffer(queue(), dst, CL_FALSE, offset, bytes, src, 0, nullptr, nullptr),
          "clEnqueueWriteBuffer", info_);
}

void ClDevice::BlockingWrite(cl_mem dst, std::size_t offset, const void* src,
                             std::size_t bytes) const {
  if (bytes == 0) return;
  const bool watched = watchdog_->limit.count() > 0;  // a blocking write has no limit
  cl_event event = nullptr;
  CheckOn(clEnqueueWriteBuffer(queue(), dst, watched ? CL_FALSE : CL_TRUE, offset, bytes, src, 0,
                               nullptr, watched ? &event : nullptr),
          "clEnqueueWriteBuffer", info_);
  if (!watched) return;
  const ClEventHandle written(event);
  Flush();
  AwaitAfter(event, kCopySpin);
}

void ClDevice::BlockingRead(cl_mem src, std::size_t offset, void* dst, std::size_t bytes) const {
  if (bytes == 0) return;
  // A blocking read has no limit; of a queue that has ended it takes no longer than the copy.
  if (watchdog_->limit.count() > 0) Finish();
  CheckOn(clEnqueueReadBuffer(queue(), src, CL_TRUE, offset, bytes, dst, 0, nullptr, nullptr),
          "clEnqueueReadBuffer", info_);
}

void ClDevice::Zero(cl_mem dst, std::size_t offset, std::size_t bytes) const {
  if (bytes == 0) return;
  const cl_uint zero = 0;
  CheckOn(
      clEnqueueFillBuffer(queue(), dst, &zero, sizeof(zero), offset, bytes, 0, nullptr, nullptr),
      "clEnqueueFillBuffer", info_);
}

void ClDevice::Copy(cl_mem src, std::size_t src_offset, cl_mem dst, std::size_t dst_offset,
                    std::size_t bytes) const {
  if (bytes == 0) return;
  CheckOn(
      clEnqueueCopyBuffer(queue(), src, dst, src_offset, dst_offset, bytes, 0, nullptr, nullptr),
      "clEnqueueCopyBuffer", info_);
}

void ClDevice::Flush() const { CheckOn(clFlush(queue()), "clFlush", info_); }

void ClDevice::Finish() const {
  if (watchdog_->limit.count() <= 0) return CheckOn(clFinish(queue()), "clFinish", info_);
  cl_event marker = nullptr;
  CheckOn(clEnqueueMarkerWithWaitList(queue(), 0, nullptr, &marker), "clEnqueueMarkerWithWaitList",
          info_);
  const ClEventHandle ended(marker);
  Flush();
  Await(ended.get());
}

void ClDevice::Watch(Seconds limit, const std::string& what, WhenOver over) const {
  watchdog_->limit = limit;
  watchdog_->what = what;
  watchdog_->over = over;
}

void ClDevice::Await(cl_event event) const { AwaitAfter(event, kFinishSpin); }

void ClDevice::CheckNotFailed(cl_event event) const { static_cast<void>(Ended(event)); }

bool ClDevice::Ended(cl_event event) const {
  cl_int status = CL_QUEUED;
  CheckOn(
      clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(status), &status, nullptr),
      "clGetEventInfo", info_);
  if (status < 0) {
    Throw<DeviceLostError>("'{}': {} failed: {}", info_.name, watchdog_->what, ClErrorName(status));
  }
  return status == CL_COMPLETE;
}

void ClDevice::AwaitAfter(cl_event event, Seconds spin) const {
  const Seconds limit = watchdog_->limit;
  DeviceWait wait(info_.is_cpu, limit, spin);
  if (limit.count() > 0 && !wait.Until([&] { return Ended(event); })) {
    if (watchdog_->over == WhenOver::kHangs) watchdog_->Hang();
    Throw<DeviceLostError>(
        "'{}': {} did not end within {} s; the device hangs or is lost: look at the system's log, "
        "and see `tandem doctor`",
        info_.name, watchdog_->what, limit.count());
  }
  // Only a wait makes the device's writes visible; after the above it is over at once.
  CheckOn(clWaitForEvents(1, &event), "clWaitForEvents", info_);
}

// clFinish has no limit, and after an error a marker may not enter the queue: a thread waits, which
// is left behind where the driver keeps it.
bool ClDevice::Drain(Seconds limit) const noexcept {
  if (Hangs()) return false;
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool ended = false;
  };
  const auto state = std::make_shared<State>();
  std::vector<cl_command_queue> queues{queue_.get()};
  queues.insert(queues.end(), watchdog_->side_queues.begin(), watchdog_->side_queues.end());
  const auto finish = [queues, state] {
    for (cl_command_queue queue : queues) clFinish(queue);
    const std::lock_guard lock(state->mutex);
    state->ended = true;
    state->changed.notify_all();
  };
  try {
    std::thread(finish).detach();
  } catch (const std::system_error&) {  // no thread to be had
    finish();
  }
  std::unique_lock lock(state->mutex);
  if (state->changed.wait_for(lock, limit, [&] { return state->ended; })) return true;
  watchdog_->Hang();  // this keeps the queue alive for the thread, too
  return false;
}

bool ClDevice::Hangs() const { return watchdog_->hangs; }

ClSideQueue::ClSideQueue(const ClDevice& device, Seconds drain_limit)
    : device_(device), drain_limit_(drain_limit) {
  cl_int error = CL_SUCCESS;
  queue_.reset(clCreateCommandQueue(device.context(), device.id(), 0, &error));
  ClCheck(error, "clCreateCommandQueue for copies", device);
  device.watchdog_->side_queues.push_back(queue_.get());
}

ClSideQueue::~ClSideQueue() {
  device_.Drain(drain_limit_);
  std::erase(device_.watchdog_->side_queues, queue_.get());
}

}  // namespace tandem
