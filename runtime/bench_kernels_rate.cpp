#include "runtime/bench_kernels_rate.h"

#include <fmt/format.h>

#include <algorithm>

#include "memory/error.h"
#include "runtime/clock.h"

namespace tandem {
namespace {

// As many chains as hide the latency of one product and still fit the registers.
constexpr int kChains = 8;

constexpr const char* kMmaSource = R"(
kernel __attribute__((reqd_work_group_size(256, 1, 1)))
void matrix_rate(global float* y, int turns) {
  const uint seed = (uint)get_global_id(0);
  const uint4 a = (uint4)(0x3f803f00u ^ (seed & 0x7f), 0xbf103f40u, 0x3e80bf20u, 0x3f60be90u);
  const uint2 b = (uint2)(0x3f20bf80u ^ (seed & 0x3f), 0xbe803f30u);
  float4 sum[CHAINS];
  #pragma unroll
  for (int c = 0; c < CHAINS; ++c) sum[c] = (float4)(0.0f);
  for (int t = 0; t < turns; ++t) {
    #pragma unroll
    for (int c = 0; c < CHAINS; ++c) {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                   "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                   : "+f"(sum[c].x), "+f"(sum[c].y), "+f"(sum[c].z), "+f"(sum[c].w)
                   : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
    }
  }
  float4 all = (float4)(0.0f);
  #pragma unroll
  for (int c = 0; c < CHAINS; ++c) all += sum[c];
  y[seed] = all.x + all.y + all.z + all.w;
})";

// Each chain tends to 1: no value overflows or becomes subnormal.
constexpr const char* kF32Source = R"(
kernel void matrix_rate(global float* y, int turns) {
  const uint seed = (uint)get_global_id(0);
  const VECTOR factor = (VECTOR)(0.5f);
  VECTOR sum[CHAINS];
  #pragma unroll
  for (int c = 0; c < CHAINS; ++c) sum[c] = (VECTOR)((float)(seed % 1024 + c));
  for (int t = 0; t < turns; ++t) {
    #pragma unroll
    for (int c = 0; c < CHAINS; ++c) sum[c] = mad(sum[c], factor, factor);
  }
  VECTOR all = (VECTOR)(0.0f);
  #pragma unroll
  for (int c = 0; c < CHAINS; ++c) all += sum[c];
  vstore_VECTOR
})";

constexpr double kWarpMmaFlops = 2.0 * 16 * 8 * 16;
constexpr std::size_t kWarp = 32;
constexpr std::size_t kGpuGroup = 256;
constexpr std::size_t kGroupsPerUnit = 4;

int NativeWidth(const ClDevice& device) {
  cl_uint width = 1;
  ClCheck(clGetDeviceInfo(device.id(), CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, sizeof(width), &width,
                          nullptr),
          "clGetDeviceInfo(CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT)");
  for (const int known : {16, 8, 4, 2}) {
    if (static_cast<int>(width) >= known) return known;
  }
  return 1;
}

std::string F32Source(int width) {
  std::string text = kF32Source;
  const std::string store = "vstore_VECTOR";
  text.replace(text.find(store), store.size(),
               width == 1 ? "y[seed] = all;" : fmt::format("vstore{}(all, seed, y);", width));
  return text;
}

template <class T>
void SetArgument(cl_kernel kernel, cl_uint index, const T& value) {
  ClCheck(clSetKernelArg(kernel, index, sizeof(value), &value), "clSetKernelArg");
}

}  // namespace

MatrixRate::MatrixRate(const ClDevice& device, int nv_compute)
    : device_(device), mma_(nv_compute >= 80), width_(mma_ ? 1 : NativeWidth(device)) {
  const ClDeviceInfo& info = device.info();
  group_ = info.is_cpu ? 1 : std::min<std::size_t>(kGpuGroup, info.max_work_group_size);
  items_ = info.compute_units * kGroupsPerUnit * group_;
  out_ = device.Allocate(items_ * static_cast<std::size_t>(width_) * sizeof(float));
  const std::string text = mma_ ? kMmaSource : F32Source(width_);
  const char* source = text.c_str();
  cl_int error = CL_SUCCESS;
  program_.reset(clCreateProgramWithSource(device.context(), 1, &source, nullptr, &error));
  ClCheck(error, "clCreateProgramWithSource");
  const std::string vector = width_ == 1 ? "float" : fmt::format("float{}", width_);
  const std::string options = fmt::format("-cl-std=CL1.2 -DCHAINS={} -DVECTOR={}", kChains, vector);
  const cl_device_id id = device.id();
  ClCheck(clBuildProgram(program_.get(), 1, &id, options.c_str(), nullptr, nullptr),
          "clBuildProgram of the bare rate");
  kernel_.reset(clCreateKernel(program_.get(), "matrix_rate", &error));
  ClCheck(error, "clCreateKernel");
}

std::string MatrixRate::unit() const { return mma_ ? "mma.sync bf16" : "f32 multiply-add"; }

double MatrixRate::Run(int turns) const {
  SetArgument(kernel_.get(), 0, out_.get());
  SetArgument(kernel_.get(), 1, cl_int{turns});
  device_.Finish();
  const double start = Now();
  ClCheck(clEnqueueNDRangeKernel(device_.queue(), kernel_.get(), 1, nullptr, &items_, &group_, 0,
                                 nullptr, nullptr),
          "clEnqueueNDRangeKernel");
  device_.Finish();
  return Now() - start;
}

double MatrixRate::Measure() const {
  constexpr double kLongEnough = 4e-3;
  constexpr int kMostTurns = 1 << 24;
  constexpr int kRounds = 5;
  int turns = 256;
  double best = Run(turns);
  while ((best = Run(turns)) < kLongEnough && turns < kMostTurns) turns *= 2;
  for (int round = 0; round < kRounds; ++round) best = std::min(best, Run(turns));
  const double flops = mma_ ? kWarpMmaFlops * static_cast<double>(items_ / kWarp)
                            : 2.0 * width_ * static_cast<double>(items_);
  return flops * kChains * turns / best;
}

}  // namespace tandem
