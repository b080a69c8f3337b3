#include "memory/cl_device.h"

#include <array>
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
  Throw<OpenClError>("{}: {} on '{}'", what, ClErrorName(error), info.name);
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

void ClCheck(cl_int error, const char* what) {
  if (error != CL_SUCCESS) Throw<OpenClError>("{}: {}", what, ClErrorName(error));
}

ClDevice::ClDevice(const ClDeviceInfo& info) : info_(info), id_(FindDevice(info)) {
  NoteClDeviceOpened();
  cl_int error = CL_SUCCESS;
  context_.reset(clCreateContext(nullptr, 1, &id_, nullptr, nullptr, &error));
  CheckOn(error, "clCreateContext", info_);
  queue_.reset(clCreateCommandQueue(context_.get(), id_, 0, &error));
  CheckOn(error, "clCreateCommandQueue", info_);
}

ClBuffer ClDevice::Allocate(std::size_t bytes, cl_mem_flags flags) const {
  cl_int error = CL_INVALID_BUFFER_SIZE;  // what the driver says of 0 or too many bytes
  ClMemHandle mem;
  if (bytes > 0 && bytes <= info_.max_alloc_bytes) {
    mem.reset(clCreateBuffer(context_.get(), flags, bytes, nullptr, &error));
  }
  if (error != CL_SUCCESS) {
    Throw<OpenClError>(
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
  CheckOn(clEnqueueWriteBuffer(queue(), dst, CL_TRUE, offset, bytes, src, 0, nullptr, nullptr),
          "clEnqueueWriteBuffer", info_);
}

void ClDevice::BlockingRead(cl_mem src, std::size_t offset, void* dst, std::size_t bytes) const {
  if (bytes == 0) return;
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

void ClDevice::Finish() const { CheckOn(clFinish(queue()), "clFinish", info_); }

}  // namespace tandem
