#include "runtime/device_side.h"

#include <cstdlib>

#include "memory/cl_touch.h"
#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/watchdog.h"

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

}  // namespace

DeviceSide::DeviceSide(const PlanDevice& plan)
    : device(FindDevice(plan)), kernels(device, cl::DefaultCacheDir()) {
  WatchLoad();
}

void DeviceSide::WatchLoad() const {
  device.Watch(WatchdogOf(1, device.info()), "a copy or a test of the load",
               ClDevice::WhenOver::kHangs);
}

void DeviceSide::AllocateScratch(const std::vector<ScratchBuffer>& buffers) {
  scratch_.clear();
  for (const ScratchBuffer& b : buffers) {
    if (!b.pinned) scratch_[b.name] = AllocateTouched(device, b.name, b.bytes());
  }
}

cl::Span DeviceSide::Scratch(const std::string& name) const {
  const auto buffer = scratch_.find(name);
  if (buffer == scratch_.end()) {
    throw Error(ExitCode::kInternal, "no device buffer '" + name + "' is planned");
  }
  return {buffer->second.get(), 0};
}

std::uint64_t DeviceSide::ScratchBytes(const std::string& name) const {
  const auto buffer = scratch_.find(name);
  return buffer == scratch_.end() ? 0 : buffer->second.bytes();
}

std::uint64_t DeviceSide::scratch_bytes() const {
  std::uint64_t bytes = kernels.own_bytes();
  for (const auto& [name, buffer] : scratch_) bytes += buffer.bytes();
  return bytes;
}

void DeviceSide::PlaceBatch(Batch& batch) const {
  const cl::Span target = Scratch("batch");
  const auto at = [&](const auto& values) {
    const auto* words = reinterpret_cast<const float*>(values.data());
    return cl::Span{target.buffer, words - batch.memory.data()};
  };
  batch.device_cos_sin = at(batch.cos_sin);
  batch.device_slots = at(batch.slots);
  batch.device_n_keys = at(batch.n_keys);
  batch.device_table_start = at(batch.table_start);
  batch.device_tables = at(batch.tables);
  for (KvPart& part : batch.kv_parts) {
    part.device_slots = at(part.slots);
    part.device_n_keys = at(part.n_keys);
    part.device_table_start = at(part.table_start);
    part.device_tables = at(part.tables);
  }
}

void DeviceSide::Upload(Batch& batch) {
  PlaceBatch(batch);
  device.Write(Scratch("batch").buffer, 0, batch.memory.data(), batch.words * sizeof(float));
}

ClEventHandle DeviceSide::Read(const cl::Span& src, void* dst, std::size_t bytes) const {
  cl_event event = nullptr;
  ClCheck(clEnqueueReadBuffer(device.queue(), src.buffer, CL_FALSE,
                              static_cast<std::size_t>(src.offset) * sizeof(float), bytes, dst, 0,
                              nullptr, &event),
          "clEnqueueReadBuffer", device);
  return ClEventHandle(event);
}

void DeviceSide::Wait(const std::vector<cl_event>& events) {
  const double start = Now();
  ClCheck(clWaitForEvents(static_cast<cl_uint>(events.size()), events.data()), "clWaitForEvents",
          device);
  metrics.device_wait_s += Now() - start;
}

}  // namespace tandem
