#include "placement/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "placement/byte_size.h"

namespace tandem {
namespace {

struct Need {
  Place place;
  std::uint64_t bytes = 0;
  std::uint64_t budget = 0;
  std::uint64_t missing() const { return bytes > budget ? bytes - budget : 0; }
};

std::vector<Need> Needs(const Plan& plan) {
  std::vector<Need> needs{{Place::Host(), plan.HostMemoryBytes(), plan.host_budget_bytes}};
  for (std::size_t i = 0; i < plan.devices.size(); ++i) {
    const int index = static_cast<int>(i);
    needs.push_back({Place::Device(index), plan.DeviceBytes(index), plan.devices[i].budget_bytes});
  }
  return needs;
}

// The setting that moves an item or makes it smaller. Items that are not here cannot move.
std::string_view SettingOf(std::string_view what) {
  static constexpr std::array<std::array<std::string_view, 2>, 7> kSettings{
      {{"attention", "placement.attention"},
       {"KV cache", "workload.context, kv.type or placement.attention"},
       {"dense MLP", "placement.dense"},
       {"router", "placement.router"},
       {"shared experts", "placement.shared_experts"},
       {"routed experts", "placement.routed_experts"},
       {"head", "placement.head"}}};
  for (const auto& [name, setting] : kSettings) {
    if (name == what) return setting;
  }
  return "";
}

const PlanItem* LargestMovable(const Plan& plan, Place place) {
  const PlanItem* largest = nullptr;
  for (const PlanItem& item : plan.items) {
    if (item.place != place || SettingOf(item.what).empty()) continue;
    if (!largest || item.bytes > largest->bytes) largest = &item;
  }
  return largest;
}

std::string Table(const std::vector<Need>& needs) {
  std::string text =
      fmt::format("{:<8} {:>12} {:>12} {:>12}\n", "place", "needed", "available", "missing");
  for (const Need& need : needs) {
    text += fmt::format("{:<8} {:>12} {:>12} {:>12}\n", ToString(need.place),
                        FormatBytes(need.bytes), FormatBytes(need.budget),
                        need.missing() > 0 ? FormatBytes(need.missing()) : "-");
  }
  return text;
}

// "3 of 16 routed experts": how much of the item covers what is missing.
std::string Part(const PlanItem& item, std::uint64_t missing) {
  if (missing >= item.bytes) return "all of it would not be enough";
  const double share = static_cast<double>(missing) / static_cast<double>(item.bytes);
  const auto count = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(item.count)));
  return fmt::format("{} of its {} parts would be enough", count, item.count);
}

// Whether there is memory that is not the host's.
bool HasOwnMemory(const Plan& plan) {
  return std::ranges::find(plan.devices, false, &PlanDevice::shares_cores) != plan.devices.end();
}

std::string WayOut(const Plan& plan, const Need& need) {
  const std::string place = ToString(need.place);
  const PlanItem* item = LargestMovable(plan, need.place);
  if (!item) {
    return fmt::format("{}: nothing on it can move; lower workload.chunk, or raise memory.{}",
                       place, need.place.on_device() ? "device" : "host");
  }
  if (!need.place.on_device() && !HasOwnMemory(plan)) {
    return fmt::format(
        "{}: the largest item is '{}' with {}, and there is no device with memory of its own; "
        "lower workload.context or workload.chunk, or take a smaller model or type",
        place, item->what, FormatBytes(item->bytes));
  }
  return fmt::format(
      "{}: the largest item that could move is '{}' with {} ({}): see {} in the profile; or lower "
      "workload.context or workload.chunk",
      place, item->what, FormatBytes(item->bytes), Part(*item, need.missing()),
      SettingOf(item->what));
}

}  // namespace

std::string DescribeShortfall(const Plan& plan, std::uint64_t node_missing) {
  const std::vector<Need> needs = Needs(plan);
  std::string text = "the plan does not fit:\n" + Table(needs);
  for (const Need& need : needs) {
    if (need.missing() > 0) text += WayOut(plan, need) + "\n";
  }
  if (node_missing > 0 && needs[0].missing() == 0) {
    text += fmt::format(
        "host: {} of the weights find no room on the NUMA nodes that have threads, each with its "
        "share; see memory.nodes and threads\n",
        FormatBytes(node_missing));
  }
  return text;
}

}  // namespace tandem
