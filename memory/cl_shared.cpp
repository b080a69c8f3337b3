#include "memory/cl_shared.h"

#include <dlfcn.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "memory/error.h"

namespace tandem {
namespace {

// cl_nv_create_buffer; no header of Khronos has it.
using CreateBufferNv = cl_mem(CL_API_CALL*)(cl_context, cl_mem_flags, cl_bitfield flags_nv,
                                            std::size_t, void*, cl_int*);
constexpr cl_bitfield kHostLocationNv = 1;
constexpr cl_bitfield kPinnedNv = 2;

// Shared virtual memory, from OpenCL 2.0: we are compiled for 1.2, whose headers hide it.
using SvmAlloc = void*(CL_API_CALL*)(cl_context, cl_bitfield, std::size_t, cl_uint);
using SvmFree = void(CL_API_CALL*)(cl_context, void*);
constexpr cl_device_info kDeviceSvmCapabilities = 0x1053;
constexpr cl_bitfield kSvmFineGrainBuffer = 1 << 1;      // of the capabilities
constexpr cl_bitfield kMemSvmFineGrainBuffer = 1 << 10;  // of the allocation

// The functions of the loader that this process runs with, which may be older than 2.0.
struct Svm {
  SvmAlloc alloc = reinterpret_cast<SvmAlloc>(dlsym(RTLD_DEFAULT, "clSVMAlloc"));
  SvmFree free = reinterpret_cast<SvmFree>(dlsym(RTLD_DEFAULT, "clSVMFree"));
};
const Svm& TheSvm() {
  static const Svm svm;
  return svm;
}

ClQueueHandle Retained(cl_command_queue queue) {
  ClCheck(clRetainCommandQueue(queue), "clRetainCommandQueue");
  return ClQueueHandle(queue);
}

ClContextHandle Retained(cl_context context) {
  ClCheck(clRetainContext(context), "clRetainContext");
  return ClContextHandle(context);
}

[[noreturn]] void CannotAllocate(const ClDevice& device, const char* what, std::size_t bytes,
                                 cl_int error) {
  Throw<OpenClError>(
      "cannot allocate {} bytes of {} for '{}': {}; give the machine more memory that may be "
      "locked, or run fewer rows a step",
      bytes, what, device.info().name, ClErrorName(error));
}

std::byte* Map(const ClDevice& device, cl_mem mem, const char* what, std::size_t bytes) {
  cl_int error = CL_SUCCESS;
  cl_event event = nullptr;
  void* host = clEnqueueMapBuffer(device.queue(), mem, CL_FALSE, CL_MAP_READ | CL_MAP_WRITE, 0,
                                  bytes, 0, nullptr, &event, &error);
  if (error != CL_SUCCESS) CannotAllocate(device, what, bytes, error);
  const ClEventHandle mapped(event);
  device.Flush();
  device.Await(event);
  return static_cast<std::byte*>(host);
}

cl_platform_id PlatformOf(const ClDevice& device) {
  cl_platform_id platform = nullptr;
  ClCheck(clGetDeviceInfo(device.id(), CL_DEVICE_PLATFORM, sizeof(platform), &platform, nullptr),
          "clGetDeviceInfo(CL_DEVICE_PLATFORM)");
  return platform;
}

// Null where the device does not have it.
CreateBufferNv FindCreateBufferNv(const ClDevice& device) {
  if (device.info().extensions.find("cl_nv_create_buffer") == std::string::npos) return nullptr;
  return reinterpret_cast<CreateBufferNv>(
      clGetExtensionFunctionAddressForPlatform(PlatformOf(device), "clCreateBufferNV"));
}

constexpr const char* kNvWhat = "host-located memory";

ClMemHandle NvHostBuffer(const ClDevice& device, CreateBufferNv create, std::size_t bytes) {
  cl_int error = CL_SUCCESS;
  ClMemHandle mem(create(device.context(), CL_MEM_READ_WRITE, kHostLocationNv | kPinnedNv, bytes,
                         nullptr, &error));
  if (error != CL_SUCCESS) CannotAllocate(device, kNvWhat, bytes, error);
  return mem;
}

ClMemHandle HostPtrBuffer(const ClDevice& device, const char* what, std::size_t bytes) {
  cl_int error = CL_SUCCESS;
  ClMemHandle mem(clCreateBuffer(device.context(), CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, bytes,
                                 nullptr, &error));
  if (error != CL_SUCCESS) CannotAllocate(device, what, bytes, error);
  return mem;
}

bool HasFineGrainSvm(const ClDevice& device) {
  const std::string& version = device.info().platform_version;  // "OpenCL 3.0 ..."
  if (version.compare(0, 7, "OpenCL ") != 0 || version.size() < 8 || version[7] < '2') return false;
  cl_bitfield capabilities = 0;
  const cl_int error = clGetDeviceInfo(device.id(), kDeviceSvmCapabilities, sizeof(capabilities),
                                       &capabilities, nullptr);
  return error == CL_SUCCESS && (capabilities & kSvmFineGrainBuffer) != 0 && TheSvm().alloc &&
         TheSvm().free;
}

bool SharesHostMemory(const ClDevice& device) {
  cl_bool unified = CL_FALSE;
  clGetDeviceInfo(device.id(), CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof(unified), &unified, nullptr);
  return device.info().is_cpu || unified == CL_TRUE;
}

// OpenCL promises nothing of a buffer that is mapped while commands use it; where the mapping is
// the memory, both sides see each other's writes all the same.
bool MappingIsTheMemory(const ClDevice& device, cl_mem mem, std::byte* host) {
  const std::array<cl_uint, 2> words{0x5AFE0001, 0x5AFE0002};
  const ClBuffer copy = device.Allocate(sizeof(words));
  std::memcpy(host, words.data(), sizeof(cl_uint));
  device.Copy(mem, 0, copy.get(), 0, sizeof(cl_uint));
  std::array<cl_uint, 2> seen{};
  device.BlockingRead(copy.get(), 0, seen.data(), sizeof(cl_uint));
  device.BlockingWrite(copy.get(), 0, &words[1], sizeof(cl_uint));
  device.Copy(copy.get(), 0, mem, 0, sizeof(cl_uint));
  device.Finish();
  std::memcpy(&seen[1], host, sizeof(cl_uint));
  return seen == words;
}

}  // namespace

std::string_view Name(SharedKind kind) {
  constexpr std::array<std::string_view, 3> kNames{"nv_host", "svm", "mapped"};
  return kNames[static_cast<std::size_t>(kind)];
}

ClSharedBuffer::ClSharedBuffer(const ClDevice& device, std::size_t bytes, SharedKind kind)
    : context_(Retained(device.context())),
      queue_(Retained(device.queue())),
      bytes_(bytes),
      kind_(kind),
      counted_(CountedBytes::kHost, bytes) {}

ClSharedBuffer::~ClSharedBuffer() {
  if (host_ == nullptr || AnyClDeviceHangs()) return;
  if (kind_ != SharedKind::kSvm) {
    clEnqueueUnmapMemObject(queue_.get(), mem_.get(), host_, 0, nullptr, nullptr);
    return;
  }
  mem_.reset();
  TheSvm().free(context_.get(), host_);
}

void ClSharedBuffer::Swap(ClSharedBuffer& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(queue_, other.queue_);
  std::swap(mem_, other.mem_);
  std::swap(host_, other.host_);
  std::swap(bytes_, other.bytes_);
  std::swap(kind_, other.kind_);
  std::swap(counted_, other.counted_);
}

std::optional<ClSharedBuffer> ClSharedBuffer::AllocateNvHost(const ClDevice& device,
                                                             std::size_t bytes) {
  const CreateBufferNv create = FindCreateBufferNv(device);
  if (create == nullptr) return {};
  ClSharedBuffer shared(device, bytes, SharedKind::kNvHost);
  shared.mem_ = NvHostBuffer(device, create, bytes);
  shared.host_ = Map(device, shared.mem_.get(), kNvWhat, bytes);
  return shared;
}

std::optional<ClSharedBuffer> ClSharedBuffer::AllocateSvm(const ClDevice& device,
                                                          std::size_t bytes) {
  if (!HasFineGrainSvm(device)) return {};
  constexpr const char* kWhat = "fine-grained shared virtual memory";
  ClSharedBuffer shared(device, bytes, SharedKind::kSvm);
  void* host =
      TheSvm().alloc(device.context(), CL_MEM_READ_WRITE | kMemSvmFineGrainBuffer, bytes, 0);
  if (host == nullptr) CannotAllocate(device, kWhat, bytes, CL_MEM_OBJECT_ALLOCATION_FAILURE);
  shared.host_ = static_cast<std::byte*>(host);
  // A buffer over SVM is that memory itself (OpenCL 2.0, 5.6.1), and fits every launcher.
  cl_int error = CL_SUCCESS;
  shared.mem_.reset(clCreateBuffer(device.context(), CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, bytes,
                                   host, &error));
  if (error != CL_SUCCESS) CannotAllocate(device, kWhat, bytes, error);
  return shared;
}

std::optional<ClSharedBuffer> ClSharedBuffer::AllocateMapped(const ClDevice& device,
                                                             std::size_t bytes) {
  if (!SharesHostMemory(device)) return {};
  constexpr const char* kWhat = "mapped memory";
  ClSharedBuffer shared(device, bytes, SharedKind::kMapped);
  shared.mem_ = HostPtrBuffer(device, kWhat, bytes);
  shared.host_ = Map(device, shared.mem_.get(), kWhat, bytes);
  if (!MappingIsTheMemory(device, shared.mem_.get(), shared.host_)) return {};
  return shared;
}

std::optional<ClSharedBuffer> ClSharedBuffer::Allocate(const ClDevice& device, std::size_t bytes,
                                                       SharedKind kind) {
  constexpr std::array kAllocate{&AllocateNvHost, &AllocateSvm, &AllocateMapped};
  std::optional<ClSharedBuffer> shared = kAllocate[static_cast<std::size_t>(kind)](device, bytes);
  if (shared) std::memset(shared->host_, 0, bytes);
  return shared;
}

std::optional<ClSharedBuffer> ClSharedBuffer::Allocate(const ClDevice& device, std::size_t bytes) {
  for (const SharedKind kind : {SharedKind::kNvHost, SharedKind::kSvm, SharedKind::kMapped}) {
    if (auto shared = Allocate(device, bytes, kind)) return shared;
  }
  return {};
}

ClPinned::ClPinned(const ClDevice& device, std::size_t bytes)
    : queue_(Retained(device.queue())), bytes_(bytes), counted_(CountedBytes::kHost, bytes) {
  constexpr const char* kWhat = "pinned host memory";
  const CreateBufferNv create = FindCreateBufferNv(device);
  mem_ =
      create != nullptr ? NvHostBuffer(device, create, bytes) : HostPtrBuffer(device, kWhat, bytes);
  host_ = Map(device, mem_.get(), kWhat, bytes);
}

ClPinned::~ClPinned() {
  if (host_ == nullptr || AnyClDeviceHangs()) return;
  clEnqueueUnmapMemObject(queue_.get(), mem_.get(), host_, 0, nullptr, nullptr);
}

void ClPinned::Swap(ClPinned& other) noexcept {
  std::swap(queue_, other.queue_);
  std::swap(mem_, other.mem_);
  std::swap(host_, other.host_);
  std::swap(bytes_, other.bytes_);
  std::swap(counted_, other.counted_);
}

}  // namespace tandem
