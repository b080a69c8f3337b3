#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "memory/cl_device.h"
#include "memory/cl_wait.h"
#include "memory/error.h"
#include "placement/machine.h"
#include "runtime/progress.h"
#include "runtime/self_test.h"

namespace tandem {

enum class Health : std::uint8_t { kOk, kWarn, kFail };

// One thing that was looked at.
struct Finding {
  std::string name;  // "NUMA balancing"
  Health health = Health::kOk;
  std::string found = {};         // "1: the kernel moves pages between nodes"
  std::string expected = {};      // empty where nothing is wrong
  std::string fix = {};           // a command or setting; empty where there is none to give
  ExitCode code = ExitCode::kOk;  // of a kFail
};

// Checks of the system. `root` is put before /proc, /sys and /dev, for tests.
Finding CheckMemory(const Machine& machine);
Finding CheckCgroupMemory(const std::string& root);
Finding CheckCores(const Machine& machine, const std::string& root);
Finding CheckCpuQuota(const Machine& machine);
Finding CheckHugePages(const std::string& root);
Finding CheckReservedPages(const Machine& machine);
Finding CheckMemlock(const Machine& machine, const std::string& root);
Finding CheckNumaBalancing(const Machine& machine, const std::string& root);
Finding CheckGovernor(const std::string& root);
Finding CheckSwap(const std::string& root);
Finding CheckInstructionSets();

// Checks of devices. `may_open` tells whether a device file can be opened for reading and writing.
using MayOpen = std::function<bool(const std::string& path)>;
Finding CheckOpenCl(const Machine& machine, bool require_device);
Finding CheckDeviceFiles(const std::string& root, const MayOpen& may_open);
Finding CheckPcie(const Device& device, const std::string& root);
Finding CheckShapes(const ClDeviceInfo& device);

// Runs the kernels of every device for so long and compares with the CPU: a finding a family.
// `progress`, which may be null, is told what comes next. Throws as ThrowInterrupted once it is
// cancelled.
std::vector<Finding> CheckKernels(const SelfTestScope& scope, Seconds time,
                                  ProgressSink* progress = nullptr);

// Checks of files.
Finding CheckCacheFolder();
Finding CheckRates(const Machine& machine);
// Reads up to 256 MiB of the file, past the page cache where the file system can, with several
// threads. Of a folder: its largest file, or a temporary one if none is large enough.
Finding CheckDisk(const std::string& path);

struct DoctorOptions {
  bool require_device = false;
  bool kernels = false;  // CheckKernels
  bool disk = true;
  std::string disk_path;             // empty: the current folder, where a failure is only a warning
  ProgressSink* progress = nullptr;  // of the kernels
};
// All of them, on this machine.
std::vector<Finding> Examine(const DoctorOptions& options);

std::string ToText(const std::vector<Finding>& findings);
std::string ToJson(const std::vector<Finding>& findings);
// Of the first failure; kOk without one.
ExitCode CodeOf(const std::vector<Finding>& findings);

}  // namespace tandem
