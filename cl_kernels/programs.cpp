#include "cl_kernels/programs.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "cl_kernels/program_patch.h"
#include "memory/error.h"

namespace tandem::cl {
namespace {

constexpr int kCacheFormat = 1;  // raise when a binary's meaning changes but no text does

// One entry per program, whatever type the caller names, for programs without a type.
DType KeyType(Program program, DType type) {
  const bool typed = program != Program::kRows && program != Program::kMlaExpanded &&
                     program != Program::kMlaExpandedWgmma;
  return typed ? type : DType::kF32;
}

// Two work-groups of 256 items share a multiprocessor only with at most 128 registers an item; left
// alone the compiler takes a few more.
std::string_view RegisterOption(Program program, const DeviceTraits& traits) {
  const bool shares = program == Program::kGemm || program == Program::kGemmTilesWgmma ||
                      program == Program::kGemmTurned || program == Program::kOneRowMma;
  return shares && traits.nv_compute >= 80 ? " -cl-nv-maxrregcount=128" : "";
}

// What a device should have to try a program with inline PTX; 0: there is none in it.
int LeastNvCompute(Program program) {
  if (IsPatched(program)) return 90;
  if (program == Program::kGemmF8Mma) return 89;
  const bool mma = program == Program::kGemmWide || program == Program::kLinearBatch ||
                   program == Program::kOneRowMma;
  return mma ? 80 : 1;
}

// Nothing is left of these without.
bool IsPtxAlone(Program program) { return LeastNvCompute(program) > 1; }

constexpr std::size_t kLogLines = 12;

std::string FirstLines(const std::string& text, std::size_t lines) {
  std::size_t end = 0;
  for (; lines > 0 && end != std::string::npos; --lines) end = text.find('\n', end + (end > 0));
  return end == std::string::npos ? text : text.substr(0, end) + "\n...";
}

std::string BuildLog(cl_program program, cl_device_id device) {
  std::size_t bytes = 0;
  clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &bytes);
  std::string log(bytes, '\0');
  clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, bytes, log.data(), nullptr);
  while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
  return log;
}

// Empty where the driver has none to give.
std::vector<unsigned char> BinaryOf(cl_program program) {
  std::size_t bytes = 0;  // the program is built for one device
  if (clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof(bytes), &bytes, nullptr) !=
      CL_SUCCESS) {
    return {};
  }
  std::vector<unsigned char> binary(bytes);
  unsigned char* data = binary.data();
  const bool given = bytes > 0 && clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof(data),
                                                   &data, nullptr) == CL_SUCCESS;
  return given ? binary : std::vector<unsigned char>();
}

std::vector<unsigned char> Patched(const std::vector<unsigned char>& binary) {
  const std::string text =
      WithHiddenPtx({reinterpret_cast<const char*>(binary.data()), binary.size()});
  return {text.begin(), text.end()};
}

// The kernels fix their work-group sizes; a device that cannot run one is told apart here, by name,
// and not at some later enqueue. NVIDIA's compiler gives a kernel as few registers as its size
// needs, and its driver answers 256 for larger ones, too, which run.
void CheckGroupSize(cl_kernel kernel, const ClDevice& device, std::string_view name) {
  std::size_t fixed[3] = {};
  std::size_t most = 0;
  ClCheck(clGetKernelWorkGroupInfo(kernel, device.id(), CL_KERNEL_COMPILE_WORK_GROUP_SIZE,
                                   sizeof(fixed), fixed, nullptr),
          "clGetKernelWorkGroupInfo", kernel);
  ClCheck(clGetKernelWorkGroupInfo(kernel, device.id(), CL_KERNEL_WORK_GROUP_SIZE, sizeof(most),
                                   &most, nullptr),
          "clGetKernelWorkGroupInfo", kernel);
  if (fixed[0] * fixed[1] * fixed[2] > most) {
    Throw<OpenClError>(
        "kernel {} needs work-groups of {} items, '{}' runs at most {} of it; use "
        "another device",
        name, fixed[0] * fixed[1] * fixed[2], device.info().name, most);
  }
}

}  // namespace

Programs::Programs(const ClDevice& device, DeviceTraits traits, std::filesystem::path cache_dir)
    : device_(device),
      traits_(std::move(traits)),
      cache_(traits_.cache_binaries ? std::move(cache_dir) : std::filesystem::path()),
      arrivals_(device.Allocate(MeetingWords(device.info().max_alloc_bytes) * sizeof(cl_int))) {
  device_.Zero(arrivals_.get(), 0, arrivals_.bytes());
}

std::string Programs::CacheKey(Program program, DType type) const {
  const ClDeviceInfo& info = device_.info();
  return fmt::format("format {}\noptions {}\ndevice {}\nvendor {}\ndriver {}\nplatform {} {}\n{}",
                     kCacheFormat, Options(program, type), info.name, info.vendor,
                     info.driver_version, info.platform, info.platform_version, TextOf(program));
}

// Null where the driver refuses it.
ClProgramHandle Programs::FromBinary(const std::vector<unsigned char>& binary,
                                     const std::string& options) const {
  const unsigned char* data = binary.data();
  const std::size_t bytes = binary.size();
  const cl_device_id id = device_.id();
  cl_int status = CL_SUCCESS;
  cl_int error = CL_SUCCESS;
  ClProgramHandle program(
      clCreateProgramWithBinary(device_.context(), 1, &id, &bytes, &data, &status, &error));
  if (error != CL_SUCCESS || status != CL_SUCCESS) return nullptr;
  error = clBuildProgram(program.get(), 1, &id, options.c_str(), nullptr, nullptr);
  return error == CL_SUCCESS ? std::move(program) : nullptr;
}

ClProgramHandle Programs::FromCache(const std::string& key, const std::string& options) const {
  const auto binary = cache_.Load(key);
  return binary && !binary->empty() ? FromBinary(*binary, options) : nullptr;
}

ClProgramHandle Programs::FromSource(Program program, const std::string& options) const {
  const std::string text = TextOf(program);
  const char* data = text.data();
  const std::size_t bytes = text.size();
  const cl_device_id id = device_.id();
  cl_int error = CL_SUCCESS;
  ClProgramHandle built(clCreateProgramWithSource(device_.context(), 1, &data, &bytes, &error));
  ClCheck(error, "clCreateProgramWithSource", device_);
  error = clBuildProgram(built.get(), 1, &id, options.c_str(), nullptr, nullptr);
  if (error != CL_SUCCESS) {
    Throw<OpenClError>(
        "the OpenCL program '{}' does not compile: {} on '{}' (driver {}) with options '{}':\n{}",
        NameOf(program), ClErrorName(error), device_.info().name, device_.info().driver_version,
        options, FirstLines(BuildLog(built.get(), id), kLogLines));
  }
  return built;
}

int Programs::NvComputeSoFar(Program program, DType type) const {
  const bool has = traits_.nv_compute >= LeastNvCompute(program);
  return has && !refused_.contains({program, KeyType(program, type)}) ? traits_.nv_compute : 0;
}

int Programs::NvCompute(Program program, DType type) {
  if (NvComputeSoFar(program, type) > 0) {
    ClProgramHandle& slot = programs_[{program, KeyType(program, type)}];
    if (!slot) BuildWithPtx(program, type, slot);
  }
  return NvComputeSoFar(program, type);
}

std::string Programs::Options(Program program, DType type) const {
  DeviceTraits traits = traits_;
  traits.nv_compute = NvComputeSoFar(program, type);
  return fmt::format("{}{}{}", traits.Options(), TypeOption(program, type),
                     RegisterOption(program, traits));
}

// Some drivers translate PTX when a kernel is first asked for.
void Programs::CheckLoads(cl_program program, Program name) const {
  cl_uint count = 0;
  cl_int error = clCreateKernelsInProgram(program, 0, nullptr, &count);
  std::vector<cl_kernel> kernels(count);
  if (error == CL_SUCCESS) {
    error = clCreateKernelsInProgram(program, count, kernels.data(), nullptr);
  }
  if (error != CL_SUCCESS) {
    Throw<OpenClError>("the kernels of '{}' do not load: {}", NameOf(name), ClErrorName(error));
  }
  for (cl_kernel kernel : kernels) clReleaseKernel(kernel);
}

// One line a program: its types mostly fail for the same reason.
void Programs::NoteRefusal(Program program, std::string_view why) {
  if (std::ranges::find(noted_, program) != noted_.end()) return;
  noted_.push_back(program);
  refusals_.push_back(fmt::format(
      "'{}' (driver {}) refuses the inline PTX of the OpenCL program '{}': {}; slower generic "
      "kernels take its place: another driver may do better",
      device_.info().name, device_.info().driver_version, NameOf(program),
      why.substr(0, why.find('\n'))));
}

bool Programs::BuildWithPtx(Program program, DType type, ClProgramHandle& slot) {
  try {
    ClProgramHandle made = Make(program, type);
    CheckLoads(made.get(), program);
    slot = std::move(made);
    return true;
  } catch (const DeviceLostError&) {
    throw;
  } catch (const OpenClError& error) {
    refused_.insert({program, KeyType(program, type)});
    NoteRefusal(program, error.what());
    return false;
  }
}

cl_program Programs::Get(Program program, DType type) {
  TANDEM_CHECK(IsWeightFormat(KeyType(program, type)));
  TANDEM_CHECK(program != Program::kKvCache || type != DType::kF8E4M3);
  ClProgramHandle& slot = programs_[{program, KeyType(program, type)}];
  if (slot) return slot.get();
  if (NvComputeSoFar(program, type) > 0 && BuildWithPtx(program, type, slot)) return slot.get();
  if (IsPtxAlone(program)) {
    Throw<OpenClError>("'{}' does not run the OpenCL program '{}', and nothing asked whether",
                       device_.info().name, NameOf(program));
  }
  slot = Make(program, type);
  return slot.get();
}

ClProgramHandle Programs::Make(Program program, DType type) {
  const std::string options = Options(program, type);
  const std::string key = CacheKey(program, type);
  ClProgramHandle made = FromCache(key, options);
  if (made) return made;
  made = FromSource(program, options);
  ++compiled_;
  std::vector<unsigned char> binary;
  if (cache_.enabled() || IsPatched(program)) binary = BinaryOf(made.get());
  if (IsPatched(program)) {
    binary = Patched(binary);
    made = FromBinary(binary, options);
  }
  if (!made) {
    Throw<OpenClError>("'{}' (driver {}) refuses the patched binary of '{}'", device_.info().name,
                       device_.info().driver_version, NameOf(program));
  }
  if (cache_.enabled()) cache_.Store(key, binary);
  return made;
}

void Programs::Build(Program program, DType type) {
  if (NvCompute(program, type) == 0 && !IsPtxAlone(program)) Get(program, type);
}

cl_kernel Programs::Kernel(Program program, DType type, std::string_view name) {
  ClKernelHandle& slot = kernels_[{program, KeyType(program, type), name}];
  if (slot) return slot.get();
  cl_int error = CL_SUCCESS;
  slot.reset(clCreateKernel(Get(program, type), std::string(name).c_str(), &error));
  if (error != CL_SUCCESS) {
    ThrowCl(error, fmt::format("clCreateKernel '{}': {} on '{}'", name, ClErrorName(error),
                               device_.info().name));
  }
  if (traits_.nv_compute == 0) CheckGroupSize(slot.get(), device_, name);
  return slot.get();
}

}  // namespace tandem::cl
