#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/program_cache.h"
#include "cl_kernels/program_sources.h"
#include "memory/cl_device.h"
#include "memory/meetings.h"

namespace tandem::cl {

// The compiled programs of one device: from the cache where it has them, else from source; each is
// built once, at the first use or by Build. What the driver refuses with inline PTX in it is built
// without, and what is nothing without is left out: their generic forms serve. Not thread-safe.
class Programs {
 public:
  static constexpr std::int64_t kArrivals = kMeetingCounters;

  Programs(const ClDevice& device, DeviceTraits traits, std::filesystem::path cache_dir);

  // The kernel `name` (a literal: it is kept by reference) of a program for one type. `type` is the
  // weight format or the KV type, and of no meaning for programs that have neither.
  cl_kernel Kernel(Program program, DType type, std::string_view name);
  // Throws OpenClError with options, device and build log.
  void Build(Program program, DType type);
  // The inline PTX that a program has for a type, in the numbers of DeviceTraits::nv_compute: 0
  // where it was built without. Builds it.
  int NvCompute(Program program, DType type);
  // The same as far as is known: what was not built yet is taken to succeed.
  int NvComputeSoFar(Program program, DType type) const;
  // Whether the driver takes the patched binary (program_patch.h) of gemm.
  bool HasWgmma() { return NvCompute(Program::kGemmTilesWgmma, DType::kQ8_0) == 90; }
  // kArrivals ints in device memory that are 0 between launches, where work-groups of one count
  // each other, and kept_sums() floats behind them, of no meaning between launches.
  cl_mem Arrivals() const { return arrivals_.get(); }
  std::int64_t kept_sums() const {
    return static_cast<std::int64_t>(arrivals_.bytes() / sizeof(float)) - kArrivals;
  }
  std::uint64_t own_bytes() const { return arrivals_.bytes(); }
  // What the driver refused, and why: a line for each program.
  const std::vector<std::string>& refusals() const { return refusals_; }

  const ClDevice& device() const { return device_; }
  const DeviceTraits& traits() const { return traits_; }
  // Programs that were compiled from source, not taken from the cache.
  int compiled() const { return compiled_; }
  // All that a binary depends on: text, options, device, driver, platform version, format number.
  std::string CacheKey(Program program, DType type) const;

 private:
  cl_program Get(Program program, DType type);
  ClProgramHandle Make(Program program, DType type);
  bool BuildWithPtx(Program program, DType type, ClProgramHandle& slot);
  void CheckLoads(cl_program program, Program name) const;
  std::string Options(Program program, DType type) const;
  void NoteRefusal(Program program, std::string_view why);
  ClProgramHandle FromCache(const std::string& key, const std::string& options) const;
  ClProgramHandle FromSource(Program program, const std::string& options) const;
  ClProgramHandle FromBinary(const std::vector<unsigned char>& binary,
                             const std::string& options) const;

  const ClDevice& device_;
  DeviceTraits traits_;
  ProgramCache cache_;
  int compiled_ = 0;
  std::set<std::pair<Program, DType>> refused_;  // with inline PTX in it
  std::vector<Program> noted_;
  std::vector<std::string> refusals_;
  std::map<std::pair<Program, DType>, ClProgramHandle> programs_;
  std::map<std::tuple<Program, DType, std::string_view>, ClKernelHandle> kernels_;
  ClBuffer arrivals_;
};

}  // namespace tandem::cl
