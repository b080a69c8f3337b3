#include "runtime/device_read.h"

#include "memory/error.h"
#include "runtime/clock.h"

namespace tandem {
namespace {

constexpr const char* kSource = R"(
kernel void read_all(const global float4* x, global float* y, ulong per_item, int blocked) {
  const ulong id = get_global_id(0);
  const ulong step = blocked ? 1 : get_global_size(0);
  const global float4* p = x + (blocked ? id * per_item : id);
  float4 a = 0, b = 0, c = 0, d = 0;
  for (ulong i = 0; i < per_item; i += 4) {
    a += p[i * step];
    b += p[(i + 1) * step];
    c += p[(i + 2) * step];
    d += p[(i + 3) * step];
  }
  a += b + c + d;
  y[id] = a.x + a.y + a.z + a.w;
})";

constexpr std::size_t kCpuItems = 1024;
constexpr std::size_t kGpuItems = std::size_t{1} << 21;
constexpr std::size_t kGpuGroup = 256;
constexpr std::size_t kUnit = 4 * sizeof(cl_float4);  // of one turn of the loop

template <class T>
void SetArgument(cl_kernel kernel, cl_uint index, const T& value) {
  ClCheck(clSetKernelArg(kernel, index, sizeof(value), &value), "clSetKernelArg");
}

}  // namespace

DeviceRead::DeviceRead(const ClDevice& device, cl_mem memory, std::size_t bytes)
    : device_(device),
      items_(device.info().is_cpu ? kCpuItems : kGpuItems),
      local_(device.info().is_cpu ? 1 : kGpuGroup) {
  while (items_ > local_ && bytes / kUnit < items_) items_ /= 2;
  per_item_ = bytes / kUnit / items_ * 4;
  TANDEM_CHECK(per_item_ > 0);
  sums_ = device.Allocate(items_ * sizeof(float));
  const cl_device_id id = device.id();
  const char* text = kSource;
  cl_int error = CL_SUCCESS;
  program_.reset(clCreateProgramWithSource(device.context(), 1, &text, nullptr, &error));
  ClCheck(error, "clCreateProgramWithSource");
  ClCheck(clBuildProgram(program_.get(), 1, &id, "-cl-std=CL1.2", nullptr, nullptr),
          "clBuildProgram of the streaming read");
  kernel_.reset(clCreateKernel(program_.get(), "read_all", &error));
  ClCheck(error, "clCreateKernel");
  SetArgument(kernel_.get(), 0, memory);
  SetArgument(kernel_.get(), 1, sums_.get());
  SetArgument(kernel_.get(), 2, static_cast<cl_ulong>(per_item_));
  SetArgument(kernel_.get(), 3, cl_int{device.info().is_cpu});
}

double DeviceRead::Measure() const {
  device_.Finish();
  const double start = Now();
  ClCheck(clEnqueueNDRangeKernel(device_.queue(), kernel_.get(), 1, nullptr, &items_, &local_, 0,
                                 nullptr, nullptr),
          "clEnqueueNDRangeKernel");
  device_.Finish();
  return static_cast<double>(items_ * per_item_ * sizeof(cl_float4)) / (Now() - start);
}

}  // namespace tandem
