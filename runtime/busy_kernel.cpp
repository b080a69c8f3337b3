#include "runtime/busy_kernel.h"

#include <algorithm>

#include "runtime/clock.h"

namespace tandem {
namespace {

constexpr const char* kSource = R"(
kernel void busy(global float* y, int turns) {
  float a = y[get_global_id(0)];
  for (int i = 0; i < turns; ++i) a = fma(a, 1.0001f, 0.5f);
  y[get_global_id(0)] = a;
})";
constexpr std::size_t kItems = 64;
constexpr cl_int kTrialTurns = 100'000;
constexpr int kTrials = 5;

}  // namespace

BusyKernel::BusyKernel(const ClDevice& device)
    : device_(device), out_(device.Allocate(kItems * sizeof(float))) {
  const char* text = kSource;
  const cl_device_id id = device.id();
  cl_int error = CL_SUCCESS;
  program_.reset(clCreateProgramWithSource(device.context(), 1, &text, nullptr, &error));
  ClCheck(error, "clCreateProgramWithSource");
  ClCheck(clBuildProgram(program_.get(), 1, &id, "-cl-std=CL1.2", nullptr, nullptr),
          "clBuildProgram of the busy kernel");
  kernel_.reset(clCreateKernel(program_.get(), "busy", &error));
  ClCheck(error, "clCreateKernel");
  device.Zero(out_.get(), 0, out_.bytes());
  double best = 1e9;
  for (int i = 0; i < kTrials; ++i) {
    device_.Finish();
    const double start = Now();
    Launch(kTrialTurns);
    device_.Finish();
    best = std::min(best, Now() - start);
  }
  turns_per_us_ = kTrialTurns / (best * 1e6);
}

void BusyKernel::Run(double us) { Launch(std::max(1, static_cast<cl_int>(us * turns_per_us_))); }

void BusyKernel::Launch(cl_int turns) {
  const cl_mem out = out_.get();
  ClCheck(clSetKernelArg(kernel_.get(), 0, sizeof(out), &out), "clSetKernelArg");
  ClCheck(clSetKernelArg(kernel_.get(), 1, sizeof(turns), &turns), "clSetKernelArg");
  ClCheck(clEnqueueNDRangeKernel(device_.queue(), kernel_.get(), 1, nullptr, &kItems, &kItems, 0,
                                 nullptr, nullptr),
          "clEnqueueNDRangeKernel");
}

}  // namespace tandem
