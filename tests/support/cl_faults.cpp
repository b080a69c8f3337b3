// A layer between the OpenCL loader and the drivers (OPENCL_LAYERS=<this library>) that passes
// every call on, but for the faults that the environment plants:
//   TANDEM_CL_FAULTS     a list with ',' of  function:n:error   the n-th call returns that error
//                                            function:n+:error  and so does every later one
//                                            function:n:hang=s  it sleeps s seconds first
//                                            function:n:never   what it enqueues never begins
//                        n counts from 1 in each process; the error is a number, -5
//   TANDEM_CL_SKIP       the name of a kernel: it is never run, and says that it was
//   TANDEM_CL_REFUSE     a list with ',': a program with one of these in its options does not build
//   TANDEM_CL_MAX_ALLOC  bytes: what CL_DEVICE_MAX_MEM_ALLOC_SIZE says, and clCreateBuffer keeps
//   TANDEM_CL_FAULTS_LOG a file: a line "fault <function> <n>" for each fault as it happens, and at
//                        the end "calls <function> <count>" for each function that was called
#include <CL/cl_icd.h>
#include <CL/cl_layer.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <vector>

// The functions that a fault can be planted in: those that this project calls and that can fail.
// clang-format off
#define TANDEM_FAULT_FUNCTIONS(X) \
  X(clGetPlatformIDs) X(clGetDeviceIDs) X(clCreateContext) \
  X(clCreateCommandQueue) X(clCreateBuffer) X(clCreateProgramWithSource) \
  X(clCreateProgramWithBinary) X(clBuildProgram) X(clCreateKernel) \
  X(clSetKernelArg) X(clWaitForEvents) X(clGetEventInfo) \
  X(clFlush) X(clFinish) X(clEnqueueReadBuffer) \
  X(clEnqueueWriteBuffer) X(clEnqueueCopyBuffer) X(clEnqueueFillBuffer) \
  X(clEnqueueMapBuffer) X(clEnqueueUnmapMemObject) X(clEnqueueNDRangeKernel) \
  X(clCreateUserEvent) X(clSetUserEventStatus) X(clGetKernelWorkGroupInfo) \
  X(clGetProgramInfo) X(clGetProgramBuildInfo) X(clGetDeviceInfo) \
  X(clEnqueueMarkerWithWaitList) X(clCreateKernelsInProgram)
// clang-format on

namespace {

#define TANDEM_NAME(name) std::string_view(#name),
constexpr std::array kFunctions{TANDEM_FAULT_FUNCTIONS(TANDEM_NAME)};

constexpr std::size_t IndexOf(std::string_view name) {
  for (std::size_t i = 0; i < kFunctions.size(); ++i) {
    if (kFunctions[i] == name) return i;
  }
  return kFunctions.size();
}

struct Fault {
  std::size_t function = 0;
  std::uint64_t n = 0;
  bool later_too = false;
  cl_int error = CL_SUCCESS;
  double hang_s = 0;
  bool never = false;  // for functions that enqueue
};

// A fault that is not understood must not pass for one that did not happen.
[[noreturn]] void Refuse(const std::string& text) {
  std::fprintf(stderr, "TANDEM_CL_FAULTS: '%s' is not function:n[+]:error|hang=seconds|never\n",
               text.c_str());
  std::abort();
}

Fault Parse(const std::string& text) {
  const std::size_t first = text.find(':');
  const std::size_t second = text.find(':', first + 1);
  if (first == std::string::npos || second == std::string::npos) Refuse(text);
  Fault fault;
  fault.function = IndexOf(text.substr(0, first));
  fault.n = std::strtoull(text.c_str() + first + 1, nullptr, 10);
  fault.later_too = text[second - 1] == '+';
  const std::string what = text.substr(second + 1);
  if (what == "never") {
    fault.never = true;
  } else if (what.rfind("hang=", 0) == 0) {
    fault.hang_s = std::strtod(what.c_str() + 5, nullptr);
  } else {
    fault.error = static_cast<cl_int>(std::strtol(what.c_str(), nullptr, 10));
  }
  if (fault.function == kFunctions.size() || fault.n == 0) Refuse(text);
  if (fault.error == CL_SUCCESS && fault.hang_s == 0 && !fault.never) Refuse(text);
  return fault;
}

class Faults {
 public:
  Faults() {
    const char* list = std::getenv("TANDEM_CL_FAULTS");
    std::istringstream in(list == nullptr ? "" : list);
    for (std::string text; std::getline(in, text, ',');) faults_.push_back(Parse(text));
    if (const char* log = std::getenv("TANDEM_CL_FAULTS_LOG")) log_ = log;
    const char* refused = std::getenv("TANDEM_CL_REFUSE");
    std::istringstream options(refused == nullptr ? "" : refused);
    for (std::string text; std::getline(options, text, ',');) refused_.push_back(text);
    if (const char* kernel = std::getenv("TANDEM_CL_SKIP")) skipped_ = kernel;
    if (const char* bytes = std::getenv("TANDEM_CL_MAX_ALLOC")) {
      max_alloc_ = std::strtoull(bytes, nullptr, 10);
    }
  }
  void LogCalls() const {
    for (std::size_t f = 0; f < kFunctions.size(); ++f) {
      if (calls_[f] > 0) Log("calls", f, calls_[f]);
    }
  }

  // CL_SUCCESS: the call is passed on; `never`: to a queue that waits for ever.
  cl_int Next(std::size_t function, bool* never = nullptr) {
    const std::uint64_t n = ++calls_[function];
    for (const Fault& fault : faults_) {
      if (fault.function != function || n < fault.n || (n > fault.n && !fault.later_too)) continue;
      Log("fault", function, n);
      std::this_thread::sleep_for(std::chrono::duration<double>(fault.hang_s));
      if (fault.error != CL_SUCCESS) return fault.error;
      if (fault.never && never != nullptr) *never = true;
    }
    return CL_SUCCESS;
  }
  std::uint64_t max_alloc() const { return max_alloc_; }
  const std::string& skipped() const { return skipped_; }
  bool Refuses(std::string_view options) const {
    return std::ranges::any_of(refused_, [&](const std::string& text) {
      return options.find(text) != std::string_view::npos;
    });
  }

 private:
  // One write per line: several processes may have the file open.
  void Log(const char* what, std::size_t function, std::uint64_t n) const {
    if (log_.empty()) return;
    std::ostringstream line;
    line << what << ' ' << kFunctions[function] << ' ' << n << '\n';
    const int fd = open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, line.str().data(), line.str().size()) < 0) std::abort();
    close(fd);
  }

  std::vector<Fault> faults_;
  std::array<std::atomic<std::uint64_t>, kFunctions.size()> calls_{};
  std::string log_;
  std::string skipped_;
  std::vector<std::string> refused_;
  std::uint64_t max_alloc_ = 0;
};

// Never destroyed: drivers and static objects call OpenCL until the very end.
Faults& TheFaults() {
  static Faults* const faults = new Faults;
  return *faults;
}

const cl_icd_dispatch* target = nullptr;
cl_icd_dispatch layer;

// What is enqueued from here on waits for an event that nobody sets: a kernel that never ends.
void Stop(cl_command_queue queue) {
  cl_context context = nullptr;
  cl_int error =
      target->clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof(context), &context, nullptr);
  const cl_event event = error == CL_SUCCESS ? target->clCreateUserEvent(context, &error) : nullptr;
  if (event == nullptr ||
      target->clEnqueueBarrierWithWaitList(queue, 1, &event, nullptr) != CL_SUCCESS) {
    std::abort();
  }
}
template <class First, class... Rest>
void StopQueueOf(First first, Rest...) {
  if constexpr (std::is_same_v<First, cl_command_queue>) Stop(first);
}

// The function `Index` of the list, which is `Member` of the dispatch table: errors come back as
// its value, or for functions that make an object through the last argument.
template <std::size_t Index, auto Member>
struct Planted;

template <std::size_t Index, class R, class... A, R (CL_API_CALL* cl_icd_dispatch::*Member)(A...)>
struct Planted<Index, Member> {
  static R CL_API_CALL Call(A... args) {
    bool never = false;
    const cl_int error = TheFaults().Next(Index, &never);
    if (never) StopQueueOf(args...);
    if (error == CL_SUCCESS) return (target->*Member)(args...);
    if constexpr (std::is_same_v<R, cl_int>) {
      return error;
    } else {
      cl_int* out = std::get<sizeof...(A) - 1>(std::make_tuple(args...));
      if (out != nullptr) *out = error;
      return nullptr;
    }
  }
};

cl_int CL_API_CALL GetDeviceInfo(cl_device_id device, cl_device_info what, size_t size, void* value,
                                 size_t* size_out) {
  const cl_int planted = TheFaults().Next(IndexOf("clGetDeviceInfo"));
  if (planted != CL_SUCCESS) return planted;
  const cl_int error = target->clGetDeviceInfo(device, what, size, value, size_out);
  const std::uint64_t limit = TheFaults().max_alloc();
  if (error == CL_SUCCESS && what == CL_DEVICE_MAX_MEM_ALLOC_SIZE && value != nullptr &&
      limit > 0) {
    *static_cast<cl_ulong*>(value) = limit;
  }
  return error;
}

cl_mem CL_API_CALL CreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void* host,
                                cl_int* error) {
  const std::uint64_t limit = TheFaults().max_alloc();
  if (limit > 0 && size > limit) {
    if (error != nullptr) *error = CL_INVALID_BUFFER_SIZE;
    return nullptr;
  }
  return Planted<IndexOf("clCreateBuffer"), &cl_icd_dispatch::clCreateBuffer>::Call(
      context, flags, size, host, error);
}

bool IsSkipped(cl_kernel kernel) {
  const std::string& skipped = TheFaults().skipped();
  std::array<char, 256> name{};
  return !skipped.empty() &&
         target->clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, name.size() - 1, name.data(),
                                 nullptr) == CL_SUCCESS &&
         skipped == name.data();
}

// What it should have written stays as it was. This project asks for no event of a kernel.
cl_int CL_API_CALL EnqueueKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                                 const size_t* offset, const size_t* global, const size_t* local,
                                 cl_uint waits, const cl_event* wait_list, cl_event* event) {
  if (event == nullptr && IsSkipped(kernel)) return CL_SUCCESS;
  return Planted<IndexOf("clEnqueueNDRangeKernel"), &cl_icd_dispatch::clEnqueueNDRangeKernel>::Call(
      queue, kernel, dimensions, offset, global, local, waits, wait_list, event);
}

cl_int CL_API_CALL BuildProgram(cl_program program, cl_uint devices, const cl_device_id* list,
                                const char* options, void(CL_CALLBACK* done)(cl_program, void*),
                                void* data) {
  if (options != nullptr && TheFaults().Refuses(options)) return CL_BUILD_PROGRAM_FAILURE;
  return Planted<IndexOf("clBuildProgram"), &cl_icd_dispatch::clBuildProgram>::Call(
      program, devices, list, options, done, data);
}

#define TANDEM_PLANT(name) layer.name = Planted<IndexOf(#name), &cl_icd_dispatch::name>::Call;

void Plant() {
  TANDEM_FAULT_FUNCTIONS(TANDEM_PLANT)
  layer.clCreateBuffer = CreateBuffer;
  layer.clBuildProgram = BuildProgram;
  layer.clGetDeviceInfo = GetDeviceInfo;
  layer.clEnqueueNDRangeKernel = EnqueueKernel;
}

}  // namespace

extern "C" {

CL_API_ENTRY cl_int CL_API_CALL clGetLayerInfo(cl_layer_info what, size_t size, void* value,
                                               size_t* size_out) {
  if (what != CL_LAYER_API_VERSION) return CL_INVALID_VALUE;
  if (value != nullptr && size < sizeof(cl_layer_api_version)) return CL_INVALID_VALUE;
  if (value != nullptr) *static_cast<cl_layer_api_version*>(value) = CL_LAYER_API_VERSION_100;
  if (size_out != nullptr) *size_out = sizeof(cl_layer_api_version);
  return CL_SUCCESS;
}

CL_API_ENTRY cl_int CL_API_CALL clInitLayer(cl_uint entries, const cl_icd_dispatch* below,
                                            cl_uint* entries_out,
                                            const cl_icd_dispatch** layer_out) {
  constexpr cl_uint kEntries = sizeof(cl_icd_dispatch) / sizeof(void*);
  if (entries < kEntries) return CL_INVALID_VALUE;
  TheFaults();  // reads the environment, or refuses it
  std::atexit([] { TheFaults().LogCalls(); });
  target = below;
  layer = *below;
  Plant();
  *entries_out = kEntries;
  *layer_out = &layer;
  return CL_SUCCESS;
}
}
