#include "runtime/pin_profile.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "placement/hash.h"

namespace tandem {
namespace {

using LayerRange = std::pair<std::int64_t, std::int64_t>;

// The ranges of layers for which `on_device` holds.
template <class Predicate>
std::vector<LayerRange> Ranges(const Plan& plan, Predicate on_device) {
  std::vector<LayerRange> ranges;
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    if (!on_device(plan.layers[i])) continue;
    const auto layer = static_cast<std::int64_t>(i);
    if (ranges.empty() || ranges.back().second + 1 != layer) ranges.push_back({layer, layer});
    ranges.back().second = layer;
  }
  return ranges;
}

// The device that runs all but experts of further ones; "": the plan has but one, which needs no
// name.
std::string LeadOf(const Plan& plan) {
  return plan.devices.size() > 1 ? std::to_string(plan.devices[0].index) : "";
}

// A role is on one side as a whole, or on the host but for some layers.
template <class Has, class OnDevice>
void PinRole(const Plan& plan, const char* role, Has has, OnDevice on_device, Side& side,
             Profile& pinned) {
  const auto wanted = [&](const LayerPlan& l) { return has(l) && on_device(l); };
  const auto there = std::ranges::count_if(plan.layers, wanted);
  const bool all = there > 0 && there == std::ranges::count_if(plan.layers, has);
  side = all ? Side::kDevice : Side::kHost;
  if (all && plan.devices.size() < 2) return;
  for (const LayerRange& range : Ranges(plan, wanted)) {
    Rule rule;
    rule.role = role;
    rule.layers = range;
    rule.place = Side::kDevice;
    rule.device = LeadOf(plan);
    pinned.rules.push_back(rule);
  }
}

std::vector<std::pair<int, int>> ExpertRanges(const std::vector<Place>& experts, Place place) {
  std::vector<std::pair<int, int>> ranges;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    if (experts[e] != place) continue;
    const auto id = static_cast<int>(e);
    if (ranges.empty() || ranges.back().second + 1 != id) ranges.push_back({id, id});
    ranges.back().second = id;
  }
  return ranges;
}

// One rule for consecutive layers with the same experts on a device.
void PinExperts(const Plan& plan, Place place, Profile& pinned) {
  const std::string device =
      plan.devices.size() > 1
          ? std::to_string(plan.devices[static_cast<std::size_t>(place.index)].index)
          : "";
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const auto ranges = ExpertRanges(plan.layers[i].experts, place);
    if (ranges.empty()) continue;
    const auto layer = static_cast<std::int64_t>(i);
    Rule* last = pinned.rules.empty() ? nullptr : &pinned.rules.back();
    if (last != nullptr && last->role == "routed_experts" && last->experts == ranges &&
        last->device == device && last->layers->second + 1 == layer) {
      last->layers->second = layer;
      continue;
    }
    Rule rule;
    rule.role = "routed_experts";
    rule.layers = LayerRange{layer, layer};
    rule.experts = ranges;
    rule.place = Side::kDevice;
    rule.device = device;
    pinned.rules.push_back(rule);
  }
}

std::string DevicesOf(const Plan& plan) {
  std::string list;
  for (const PlanDevice& device : plan.devices) {
    list += (list.empty() ? "" : ",") + std::to_string(device.index);
  }
  return list.empty() ? "none" : list;
}

void PinThreads(const Plan& plan, Profile& pinned) {
  int threads = 0;
  pinned.node_threads.clear();
  for (const PlanNode& node : plan.nodes) {
    threads += static_cast<int>(node.cores.size());
    if (plan.nodes.size() > 1) {
      pinned.node_threads[node.os_index] = static_cast<int>(node.cores.size());
    }
  }
  pinned.threads = threads;
  pinned.device_threads.reset();
  if (plan.devices.empty() || !plan.devices[0].shares_cores) return;
  pinned.device_threads = plan.devices[0].threads;
}

}  // namespace

Profile PinProfile(const Profile& profile, const Plan& plan) {
  Profile pinned = profile;
  pinned.rules.clear();
  pinned.device_layers.reset();
  pinned.experts_order.clear();
  pinned.origins.clear();
  pinned.device = DevicesOf(plan);
  pinned.chunk = plan.max_rows;
  PinThreads(plan, pinned);
  const auto any = [](const LayerPlan&) { return true; };
  const auto moe = [](const LayerPlan& l) { return l.moe; };
  const auto dense = [](const LayerPlan& l) { return !l.moe; };
  PinRole(
      plan, "attention", any, [](const LayerPlan& l) { return l.attention.on_device(); },
      pinned.attention, pinned);
  PinRole(
      plan, "dense", dense, [](const LayerPlan& l) { return l.dense.on_device(); }, pinned.dense,
      pinned);
  PinRole(
      plan, "router", moe, [](const LayerPlan& l) { return l.router.on_device(); }, pinned.router,
      pinned);
  PinRole(
      plan, "shared_experts", moe, [](const LayerPlan& l) { return l.shared.on_device(); },
      pinned.shared_experts, pinned);
  pinned.head = plan.head.on_device() ? Side::kDevice : Side::kHost;
  if (plan.head.on_device() && plan.devices.size() > 1) {
    Rule rule;
    rule.role = "head";
    rule.place = Side::kDevice;
    rule.device = LeadOf(plan);
    pinned.rules.push_back(rule);
  }
  pinned.experts = Profile::Experts::kShare;
  pinned.experts_share = 0;
  for (std::size_t d = 0; d < plan.devices.size(); ++d) {
    PinExperts(plan, Place::Device(static_cast<int>(d)), pinned);
  }
  return pinned;
}

std::string PlacementKey(const Plan& plan) {
  std::string text = fmt::format("chunk {} stream {};", plan.max_rows, plan.stream_prefill);
  for (const PlanNode& node : plan.nodes) {
    text += fmt::format("node {} {} {:.4f};", node.os_index, node.cores.size(), node.share);
  }
  for (const PlanDevice& device : plan.devices) {
    text += fmt::format("device {} {};", device.index, device.threads);
  }
  const auto add = [&](Place place) {
    text += place.on_device() ? static_cast<char>('1' + place.index) : '0';
  };
  add(plan.head);
  for (const LayerPlan& layer : plan.layers) {
    for (const Place place : {layer.attention, layer.dense, layer.router, layer.shared}) add(place);
    for (const Place place : layer.experts) add(place);
  }
  return HashText(text);
}

}  // namespace tandem
