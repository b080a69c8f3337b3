#include "runtime/device_side.h"

#include <cstdlib>
#include <cstring>

#include "memory/error.h"
#include "runtime/clock.h"

namespace tandem {
namespace {

ClDeviceInfo FindDevice(const PlanDevice& plan) {
  if (plan.shares_cores && plan.threads > 0) {
    // PoCL reads this when its platform is first opened; a user's own setting stays.
    setenv("POCL_MAX_PTHREAD_COUNT", std::to_string(plan.threads).c_str(), 0);
  }
  const ClProbe probe = ProbeClDevices();
  for (const ClDeviceInfo& info : probe.devices) {
    if (info.index == plan.index && info.name == plan.name) return info;
  }
  Throw<OpenClError>(
      "OpenCL device {} ('{}') of the plan is not there any more: {} found{}{}; see "
      "`tandem devices`",
      plan.index, plan.name, probe.devices.size(), probe.problem.empty() ? "" : ": ",
      probe.problem);
}

template <class T>
cl::Span Append(std::vector<std::int32_t>& words, const std::vector<T>& values) {
  static_assert(sizeof(T) == sizeof(std::int32_t));
  const auto at = static_cast<std::int64_t>(words.size());
  words.resize(words.size() + values.size());
  std::memcpy(words.data() + at, values.data(), values.size() * sizeof(T));
  return {nullptr, at};
}

}  // namespace

DeviceSide::DeviceSide(const PlanDevice& plan)
    : device(FindDevice(plan)), kernels(device, cl::DefaultCacheDir()) {}

cl::Span DeviceSide::Scratch(const std::string& name, std::int64_t floats) {
  ClBuffer& buffer = scratch_[name];
  const std::size_t bytes = floats * sizeof(float);
  if (buffer.bytes() < bytes) buffer = device.Allocate(bytes);
  return {buffer.get(), 0};
}

void DeviceSide::Upload(Batch& batch) {
  batch_words_.clear();
  batch.device_cos_sin = Append(batch_words_, batch.cos_sin);
  batch.device_slots = Append(batch_words_, batch.slots);
  batch.device_n_keys = Append(batch_words_, batch.n_keys);
  batch.device_table_start = Append(batch_words_, batch.table_start);
  batch.device_tables = Append(batch_words_, batch.tables);
  const cl::Span target = Scratch("batch", static_cast<std::int64_t>(batch_words_.size()));
  for (cl::Span* s : {&batch.device_cos_sin, &batch.device_slots, &batch.device_n_keys,
                      &batch.device_table_start, &batch.device_tables}) {
    s->buffer = target.buffer;
  }
  device.Write(target.buffer, 0, batch_words_.data(), batch_words_.size() * sizeof(std::int32_t));
}

ClEventHandle DeviceSide::Read(const cl::Span& src, void* dst, std::size_t bytes) const {
  cl_event event = nullptr;
  ClCheck(clEnqueueReadBuffer(device.queue(), src.buffer, CL_FALSE,
                              static_cast<std::size_t>(src.offset) * sizeof(float), bytes, dst, 0,
                              nullptr, &event),
          "clEnqueueReadBuffer");
  return ClEventHandle(event);
}

void DeviceSide::Wait(const std::vector<cl_event>& events) {
  const double start = Now();
  ClCheck(clWaitForEvents(static_cast<cl_uint>(events.size()), events.data()), "clWaitForEvents");
  metrics.device_wait_s += Now() - start;
}

}  // namespace tandem
