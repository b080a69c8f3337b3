#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bench/bare_mma.h"
#include "cl_kernels/program_patch.h"
#include "cl_kernels/program_sources.h"
#include "cl_kernels/programs.h"
#include "memory/cl_device.h"

namespace tandem {

// Products of 64 x 128 x 32 with x in registers, eight between two waits.
inline constexpr const char* kBareWgmmaF8 = R"CLC(
kernel __attribute__((reqd_work_group_size(256, 1, 1))) void bare(global float* out, int rounds) {
  local uchar w[16384] __attribute__((aligned(1024)));
  float c[64];
  const uint a = (uint)get_local_id(0) & 0x3f3f3f;
#pragma unroll
  for (int i = 0; i < 64; ++i) c[i] = 0.0f;
  for (int i = (int)get_local_id(0); i < 16384; i += 256) w[i] = (uchar)(i & 63);
  barrier(CLK_LOCAL_MEM_FENCE);
  asm volatile("//PTX fence.proxy.async.shared::cta;" : : : "memory");
  const ulong at = keys_at((uint)(ulong)w);
  for (int r = 0; r < rounds; ++r) {
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      asm volatile(
          "//PTX { .reg .pred add; setp.eq.u32 add, 1, 1; "
          "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" WGMMA_NAMES_64
          "}, {%64, %64, %64, %64}, %65, add, 1, 1; }"
          : WGMMA_SUMS_64(c)
          : "r"(a), "l"(at + i % 4 * 2)
          : "memory");
    }
    wgmma_commit();
    wgmma_wait();
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 64; ++i) sum += c[i];
  out[get_global_id(0)] = sum;
}
)CLC";

// FLOP/s of mma.sync in e4m3, as BareMmaRate.
inline double BareMmaF8Rate(const ClDevice& device) {
  std::string text = kBareMma;
  const std::string bf16 = "m16n8k16.row.col.f32.bf16.bf16.f32";
  text.replace(text.find(bf16), bf16.size(), "m16n8k32.row.col.f32.e4m3.e4m3.f32");
  return BareRate(device, ProgramOf(device, text), 8 * 8 * 8192);
}

// FLOP/s of wgmma in e4m3.
inline double BareWgmmaF8Rate(const ClDevice& device) {
  const std::string options = cl::TraitsOf(device).Options();
  const std::string text = cl::TextOf(cl::Program::kGemmF8Wgmma) + kBareWgmmaF8;
  const ClProgramHandle compiled = ProgramOf(device, text, options);
  std::size_t bytes = 0;
  ClCheck(clGetProgramInfo(compiled.get(), CL_PROGRAM_BINARY_SIZES, sizeof(bytes), &bytes, nullptr),
          "clGetProgramInfo");
  std::string binary(bytes, '\0');
  char* data = binary.data();
  ClCheck(clGetProgramInfo(compiled.get(), CL_PROGRAM_BINARIES, sizeof(data), &data, nullptr),
          "clGetProgramInfo");
  const std::string patched = cl::WithHiddenPtx(binary);
  const auto* from = reinterpret_cast<const unsigned char*>(patched.data());
  const cl_device_id id = device.id();
  const std::size_t length = patched.size();
  cl_int error = CL_SUCCESS;
  const ClProgramHandle program(
      clCreateProgramWithBinary(device.context(), 1, &id, &length, &from, nullptr, &error));
  ClCheck(error, "clCreateProgramWithBinary");
  ClCheck(clBuildProgram(program.get(), 1, &id, options.c_str(), nullptr, nullptr),
          "clBuildProgram");
  return BareRate(device, program, 2 * 8 * 2 * 64 * 128 * 32);
}

}  // namespace tandem
