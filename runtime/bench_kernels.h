#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "memory/cl_device.h"
#include "memory/tuned_shapes.h"
#include "runtime/progress.h"

namespace tandem {

struct KernelBenchOptions {
  std::string only;  // what "kernel shape format" must hold, in any case; empty: everything
  std::vector<std::string> with;  // shapes to compare: cl_kernels/tunables.h
  bool quick = false;             // small shapes and short batches, for tests: a few seconds
};

// What bounds a kernel: the largest of its bytes over the streaming read, its operations over the
// bare rate of the matrix unit, and a launch.
enum class KernelLimit : std::uint8_t { kNone, kRead, kMatrix, kLaunch };
std::string_view Name(KernelLimit limit);  // "-", "read", "matrix", "launch"

// Seconds of one call, from batches of calls back to back between two waits for the device.
struct KernelTime {
  double seconds = 0;  // the median batch
  double spread = 0;   // (slowest - quickest) / median
};

struct KernelFinding {
  std::string kernel, shape, format;
  double bytes = 0;  // that a call must read and write at the least
  double flops = 0;
  KernelTime time;
  std::optional<KernelTime> second;  // the same in the report's second form
  KernelLimit limit = KernelLimit::kNone;
  double share = 0;  // of that limit
};

// The device's own, measured in the same run.
struct KernelLimits {
  double read_bytes_per_s_before = 0;  // streaming read, before the kernels and after them
  double read_bytes_per_s_after = 0;   // 0: interrupted, or failed
  double matrix_flops_per_s = 0;       // registers only
  std::string matrix_unit;             // "mma.sync bf16", "f32 fma"
  double launch_s = 0;                 // a tiny kernel, back to back

  // The larger of both: the share of a device that slows down is not flattered.
  double read_bytes_per_s() const;
};

struct KernelReport {
  KernelLimits limits;
  // What stands beside: "wide_rows=2" where it was asked for, else "generic", without vendor
  // instructions, where the device has any; else empty.
  std::string second;
  TunedShapes shapes;  // that the device ran with
  std::vector<KernelFinding> findings;
  struct Omission {
    std::string what, why;
  };
  std::vector<Omission> left_out;  // does not fit, or the time was over
  std::vector<Omission> failed;
  bool interrupted = false;
};

// Times every kernel of a device in its shapes. Device time is what the host sees of launches that
// queue up, so that what a launch costs is in it. Throws UsageError if `only` names nothing.
KernelReport BenchKernels(const ClDevice& device, const KernelBenchOptions& options,
                          ProgressSink* progress);

}  // namespace tandem
