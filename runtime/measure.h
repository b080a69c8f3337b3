#pragma once

#include <string>
#include <vector>

#include "placement/machine.h"
#include "runtime/progress.h"

namespace tandem {

struct MeasureOptions {
  bool devices = true;
  bool quick = false;  // coarser grids and fewer repetitions, for tests: a few seconds
};

struct Measurement {
  Rates rates;
  std::vector<std::string> problems;  // devices that could not be measured, and why: not in rates
};

// Measures what placement/rates.h describes on this machine: the CPU side with teams of 1, half and
// all of the threads, then each OpenCL device (one that shares the cores with half of the threads).
// Takes about half a minute a side, needs 0.5 to 4 GiB of host memory (16 times the last level of
// caches) and 1 GiB of the device's, and reports what it does. Throws the interruption error when
// `progress` says so.
Measurement MeasureRates(const Machine& machine, const MeasureOptions& options,
                         ProgressSink* progress);

}  // namespace tandem
