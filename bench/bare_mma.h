#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>

#include "memory/cl_device.h"

namespace tandem {

// Eight chains of products in registers.
inline constexpr const char* kBareMma = R"CLC(
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void bare(global float* out, int rounds) {
  float c[8][4];
  uint a[4];
  uint b[2];
  for (int i = 0; i < 4; ++i) a[i] = get_global_id(0) & 0x3f003f;
  for (int i = 0; i < 2; ++i) b[i] = get_local_id(0) & 0x3f003f;
#pragma unroll
  for (int i = 0; i < 8; ++i) c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0.0f;
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                   "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                   : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
  out[get_global_id(0)] = sum;
}
)CLC";

inline ClProgramHandle ProgramOf(const ClDevice& device, const std::string& source,
                                 const std::string& options = "") {
  const char* text = source.c_str();
  cl_int error = CL_SUCCESS;
  ClProgramHandle program(clCreateProgramWithSource(device.context(), 1, &text, nullptr, &error));
  ClCheck(error, "clCreateProgramWithSource");
  ClCheck(clBuildProgram(program.get(), 0, nullptr, options.c_str(), nullptr, nullptr),
          "clBuildProgram");
  return program;
}

// FLOP/s of a kernel `bare`, the best of three; `flops` a work-group and round.
inline double BareRate(const ClDevice& device, const ClProgramHandle& program, double flops) {
  using Clock = std::chrono::steady_clock;
  cl_int error = CL_SUCCESS;
  const ClKernelHandle kernel(clCreateKernel(program.get(), "bare", &error));
  ClCheck(error, "clCreateKernel");
  const std::size_t local = 256;
  const std::size_t global = local * 4 * static_cast<std::size_t>(device.info().compute_units);
  const ClBuffer out = device.Allocate(global * sizeof(float));
  const cl_mem memory = out.get();
  const cl_int rounds = 4096;
  ClCheck(clSetKernelArg(kernel.get(), 0, sizeof(memory), &memory), "clSetKernelArg");
  ClCheck(clSetKernelArg(kernel.get(), 1, sizeof(rounds), &rounds), "clSetKernelArg");
  double best = 0;
  for (int i = 0; i < 4; ++i) {
    const auto start = Clock::now();
    for (int call = 0; call < 8; ++call) {
      ClCheck(clEnqueueNDRangeKernel(device.queue(), kernel.get(), 1, nullptr, &global, &local, 0,
                                     nullptr, nullptr),
              "clEnqueueNDRangeKernel");
    }
    device.Finish();
    const double s = std::chrono::duration<double>(Clock::now() - start).count() / 8;
    if (i > 0) best = std::max(best, static_cast<double>(global / local) * rounds * flops / s);
  }
  return best;
}

// FLOP/s of mma.sync in bf16 with nothing else to do.
inline double BareMmaRate(const ClDevice& device) {
  return BareRate(device, ProgramOf(device, kBareMma), 8 * 8 * 4096);
}

}  // namespace tandem
