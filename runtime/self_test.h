#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cl_kernels/kernels.h"
#include "memory/dtype.h"
#include "placement/plan.h"
#include "runtime/weights.h"

namespace tandem {

// Whether a device computes what its kernels say: memory that flips bits, a broken driver or an
// overclocked card give wrong numbers without an error.

// A kernel family on one small input, compared with the same in double precision on the CPU.
struct SelfTestRow {
  std::string family;  // "products", "experts", "MLA", ...
  std::string shape, format;
  double error = 0;  // sum of squared differences by sum of squares; NaN where a value is
  double bound = 0;
  bool passes() const { return error <= bound; }  // not for NaN
};

// Sum (got - want)^2 / sum want^2. NaN where got has one, or where the lengths differ.
double NormalizedError(std::span<const double> want, std::span<const float> got);

// What a plan uses of a device.
struct SelfTestScope {
  std::vector<DType> formats;        // of weights; those that devices do not take are left out
  std::vector<DType> panel_formats;  // block formats that come in the CPU's panels
  std::vector<DType> kv_types;
  bool mla = true;    // attention over the latent cache
  bool heads = true;  // attention over keys of several heads
  bool experts = true;
  bool bf16 = true;       // products of many rows may round to bf16
  bool hand_over = true;  // layers pass to the host and back
  bool feed = true;       // steps are enqueued ahead of their rows
  bool fp8 = true;        // products of many rows with FP8 weights may round to e4m3
};
// Every family in every format that devices have.
SelfTestScope WholeScope();
// What a plan's device number `device` runs, with weights in these formats.
SelfTestScope ScopeOf(const Weights& weights, const Plan& plan, int device,
                      const std::vector<DType>& formats);

// Called before each part of the test, "products in Q4_K"; it may throw to end the test.
using SelfTestStage = std::function<void(const std::string& what)>;

// Runs and judges every kernel family of the scope; `seed`: which numbers. Throws what the kernels
// throw where one does not even run.
std::vector<SelfTestRow> RunSelfTest(cl::Kernels& kernels, const SelfTestScope& scope,
                                     unsigned seed = 1, const SelfTestStage& stage = {});

// Throws OpenClError that names the device and the first family that fails.
void RequirePassed(std::span<const SelfTestRow> rows, const ClDeviceInfo& device);

// At load: runs the test unless this device, driver and program text have passed it for this scope
// before, which a file in `cache` says (empty: none is kept). Throws as RequirePassed.
void SelfTestOnce(cl::Kernels& kernels, const SelfTestScope& scope,
                  const std::filesystem::path& cache);

// The worst row of each family, in the order in which the families came.
std::vector<SelfTestRow> WorstOfFamilies(std::span<const SelfTestRow> rows);

}  // namespace tandem
