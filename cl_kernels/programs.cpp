#include "cl_kernels/programs.h"

#include <utility>
#include <vector>

#include "cl_kernels/program_patch.h"
#include "memory/error.h"

namespace tandem::cl {
namespace {

constexpr int kCacheFormat = 1;  // raise when a binary's meaning changes but no text does

// One entry per program, whatever type the caller names, for programs without a type.
DType KeyType(Program program, DType type) {
  return program == Program::kRows ? DType::kF32 : type;
}

// Two work-groups of gemm's 256 items share a multiprocessor only with at most 128 registers an
// item; left alone the compiler takes a few more.
std::string_view RegisterOption(Program program, const DeviceTraits& traits) {
  const bool shares = program == Program::kGemm || program == Program::kGemmTilesWgmma;
  return shares && traits.nv_compute >= 80 ? " -cl-nv-maxrregcount=128" : "";
}

std::string OptionsOf(Program program, DType type, const DeviceTraits& traits) {
  return fmt::format("{}{}{}", traits.Options(), TypeOption(program, type),
                     RegisterOption(program, traits));
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
// and not at some later enqueue.
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
      cache_(traits_.cache_binaries ? std::move(cache_dir) : std::filesystem::path()) {}

std::string Programs::CacheKey(Program program, DType type) const {
  const ClDeviceInfo& info = device_.info();
  return fmt::format("format {}\noptions {}\ndevice {}\nvendor {}\ndriver {}\nplatform {} {}\n{}",
                     kCacheFormat, OptionsOf(program, type, traits_), info.name, info.vendor,
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
        options, BuildLog(built.get(), id));
  }
  return built;
}

cl_program Programs::Get(Program program, DType type) {
  TANDEM_CHECK(program == Program::kRows || IsWeightFormat(type));
  TANDEM_CHECK(program != Program::kKvCache || type != DType::kF8E4M3);
  ClProgramHandle& slot = programs_[{program, KeyType(program, type)}];
  if (slot) return slot.get();
  const std::string options = OptionsOf(program, type, traits_);
  const std::string key = CacheKey(program, type);
  slot = FromCache(key, options);
  if (slot) return slot.get();
  slot = FromSource(program, options);
  ++compiled_;
  std::vector<unsigned char> binary;
  if (cache_.enabled() || IsPatched(program)) binary = BinaryOf(slot.get());
  if (IsPatched(program)) {
    binary = Patched(binary);
    slot = FromBinary(binary, options);
  }
  if (!slot) {
    Throw<OpenClError>("'{}' (driver {}) refuses the patched binary of '{}'; run without it",
                       device_.info().name, device_.info().driver_version, NameOf(program));
  }
  if (cache_.enabled()) cache_.Store(key, binary);
  return slot.get();
}

// The one refusal that is no error: what wgmma does, mma.sync does slower.
bool Programs::HasWgmma() {
  if (has_wgmma_) return *has_wgmma_;
  has_wgmma_ = false;
  if (traits_.nv_compute != 90) return false;
  try {
    Build(Program::kGemmTilesWgmma, DType::kQ8_0);
    has_wgmma_ = true;
  } catch (const OpenClError& e) {
    wgmma_problem_ = e.what();
  }
  return *has_wgmma_;
}

void Programs::Build(Program program, DType type) { Get(program, type); }

cl_kernel Programs::Kernel(Program program, DType type, std::string_view name) {
  ClKernelHandle& slot = kernels_[{program, KeyType(program, type), name}];
  if (slot) return slot.get();
  cl_int error = CL_SUCCESS;
  slot.reset(clCreateKernel(Get(program, type), std::string(name).c_str(), &error));
  if (error != CL_SUCCESS) {
    ThrowCl(error, fmt::format("clCreateKernel '{}': {} on '{}'", name, ClErrorName(error),
                               device_.info().name));
  }
  CheckGroupSize(slot.get(), device_, name);
  return slot.get();
}

}  // namespace tandem::cl
