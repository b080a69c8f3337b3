#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cl_kernels/kernels.h"
#include "memory/dtype.h"

namespace tandem {

// Whether a device computes what its kernels say: memory that flips bits, a broken driver and an
// overclocked card give wrong numbers without an error.

// One kernel on one small input, compared with the same in double precision on the CPU.
struct SelfTestRow {
  std::string kernel, shape, format;
  double error = 0;  // sum of squared differences by sum of squares; NaN where a value is
  double limit = 0;
  bool passes() const { return error <= limit; }  // not for NaN
};

// Sum (got - want)^2 / sum want^2. NaN where got has one or a length differs.
double NormalizedError(std::span<const double> want, std::span<const float> got);

struct SelfTestOptions {
  std::vector<DType> formats;  // of weights; those that devices do not take are left out
  unsigned seed = 1;           // another one, other numbers
};
// Runs and judges every kernel of the test. Throws OpenClError where a kernel does not even run.
std::vector<SelfTestRow> RunSelfTest(cl::Kernels& kernels, const SelfTestOptions& options);

// Throws OpenClError that names the device and the first kernel that fails.
void RequirePassed(std::span<const SelfTestRow> rows, const ClDeviceInfo& device);

std::string SelfTestText(std::span<const SelfTestRow> rows);

}  // namespace tandem
