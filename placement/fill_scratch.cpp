#include <algorithm>
#include <utility>

#include "placement/fill_plan.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

ScratchUse UseOfRoles(unsigned roles, bool any_device) {
  return {
      (roles & kScratchAttention) != 0, (roles & kScratchMlp) != 0,   (roles & kScratchRouter) != 0,
      (roles & kScratchExperts) != 0,   (roles & kScratchHead) != 0,  any_device,
      (roles & kScratchCache) != 0,     (roles & kScratchFirst) != 0, (roles & kScratchFeed) != 0};
}

}  // namespace

Resources::Resources(const PlanInput& input, DeviceSet set) : devices(std::move(set)) {
  const Device* sharing = nullptr;
  for (const Device* device : devices) {
    budgets.push_back(DeviceBudget(input.task.machine, input.profile, *device));
    if (device->shares_cores) sharing = device;
  }
  if (sharing != nullptr) {
    splits = CoreSplits(input.task.machine, input.profile, *sharing);
  } else {
    splits = {ShareCores(input.task.machine, input.profile, nullptr)};
  }
}

ScratchSize ScratchSizes::Host(const Plan& plan, unsigned roles) { return Find(plan, roles, true); }
ScratchSize ScratchSizes::Device(const Plan& plan, unsigned roles) {
  return Find(plan, roles, false);
}

ScratchSize ScratchSizes::Find(const Plan& plan, unsigned roles, bool host) {
  std::size_t threads = 0;
  if (host) {
    for (const PlanNode& node : plan.nodes) threads += node.cores.size();
  }
  const std::size_t devices = host ? plan.devices.size() : 1;
  const auto [entry, is_new] = sizes_.try_emplace(
      {host, plan.max_rows, threads, devices, roles | (plan.stream_prefill ? kScratchStream : 0U),
       plan.devices.empty() ? -1 : plan.devices[0].index});
  if (!is_new) return entry->second;
  const ScratchUse use = UseOfRoles(roles, devices > 0);
  ScratchSize& size = entry->second;
  size.bytes = SumBytes(host ? HostScratch(config_, plan, use) : DeviceScratch(config_, plan, use));
  if (host) return size;
  const ScratchBuffer largest = LargestBuffer(config_, plan, use);
  size.largest = largest.bytes();
  size.name = largest.name;
  return size;
}

}  // namespace tandem
