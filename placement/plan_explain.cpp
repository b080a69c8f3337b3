#include "placement/plan_explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "placement/byte_size.h"
#include "placement/plan_input.h"
#include "placement/search_devices.h"

namespace tandem {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// Calls visit(place, want, bytes on the host, bytes on a device) for every unit of a kind.
using UnitVisit = std::function<void(Place&, const Want&, std::uint64_t, std::uint64_t)>;
struct Kind {
  std::string what;
  std::function<void(Plan&, const UnitVisit&)> for_each;
};

// All but routed experts, which are not cut, lie on the first device.
std::uint64_t OnDevice(const Plan& plan, const Unit& unit) {
  return unit.DeviceBytes(plan.devices.empty() ? UINT64_MAX : plan.devices[0].max_alloc_bytes);
}

Kind RoleKind(const PlanInput& in, std::size_t role) {
  const std::string what = role == kAttention ? "attention and KV cache" : kLayerRoles[role].what;
  return {what, [&in, role](Plan& plan, const UnitVisit& visit) {
            const auto nodes = static_cast<int>(plan.nodes.size());
            for (std::size_t i = 0; i < plan.layers.size(); ++i) {
              const Unit& unit = in.task.units.layers[i].*kLayerRoles[role].unit;
              if (unit.tensors == 0) continue;
              const std::uint64_t kv = role == kAttention ? in.kv_layer_bytes : 0;
              visit(plan.layers[i].*kLayerRoles[role].place, in.wants.roles[i][role],
                    unit.HostBytes(nodes) + kv, OnDevice(plan, unit) + kv);
            }
          }};
}

std::vector<Kind> Kinds(const PlanInput& in) {
  std::vector<Kind> kinds;
  for (std::size_t r = 0; r < kLayerRoleCount; ++r) kinds.push_back(RoleKind(in, r));
  kinds.push_back({"routed experts", [&in](Plan& plan, const UnitVisit& visit) {
                     const auto nodes = static_cast<int>(plan.nodes.size());
                     for (std::size_t i = 0; i < plan.layers.size(); ++i) {
                       for (std::size_t e = 0; e < plan.layers[i].experts.size(); ++e) {
                         const Unit& unit = in.task.units.layers[i].experts[e];
                         visit(plan.layers[i].experts[e], in.wants.experts[i][e],
                               unit.HostBytes(nodes), OnDevice(plan, unit));
                       }
                     }
                   }});
  kinds.push_back({"head", [&in](Plan& plan, const UnitVisit& visit) {
                     visit(plan.head, in.wants.head,
                           in.task.units.head.HostBytes(static_cast<int>(plan.nodes.size())),
                           OnDevice(plan, in.task.units.head));
                   }});
  return kinds;
}

struct Sum {
  std::uint64_t bytes = 0;
  std::int64_t units = 0;
  std::int64_t pinned = 0;
};

bool IsPinned(const PlanInput& in, const Kind& kind, const Want& want) {
  return want.side != Side::kAuto ||
         (kind.what == "routed experts" && in.profile.experts != Profile::Experts::kAuto);
}

Sum SumOf(const PlanInput& in, const Kind& kind, Plan& plan, Place place) {
  Sum sum;
  kind.for_each(plan, [&](Place& at, const Want& want, std::uint64_t host, std::uint64_t device) {
    if (at != place) return;
    sum.bytes += place.on_device() ? device : host;
    ++sum.units;
    if (IsPinned(in, kind, want)) ++sum.pinned;
  });
  return sum;
}

std::string Why(const Plan& plan, const Explanation::Group& group, const Sum& sum) {
  if (sum.pinned == sum.units) return "the profile says so";
  const bool gains = group.workload_s_per_gib > 0;
  if (group.place.on_device()) {
    return gains ? "saves time here" : "costs nothing here, and keeps a layer's work on one side";
  }
  if (plan.devices.empty()) return "no device is used";
  if (gains) return "faster here";
  const std::uint64_t used = plan.DeviceBytes(0);
  const std::uint64_t budget = plan.devices[0].budget_bytes;
  return fmt::format("would be faster on device0, which has {} left",
                     FormatBytes(budget > used ? budget - used : 0));
}

void AddGroup(const PlanInput& in, const Plan& plan, const Kind& kind, Place place,
              Explanation& explanation) {
  Plan moved = plan;
  const Sum sum = SumOf(in, kind, moved, place);
  if (sum.units == 0) return;
  Explanation::Group group{kind.what, place, sum.bytes, {}, 0, 0, 0};
  if (!plan.devices.empty()) {
    const Place other = place.on_device() ? Place::Host() : Place::Device(0);
    kind.for_each(moved, [&](Place& at, const Want&, std::uint64_t, std::uint64_t) {
      if (at == place) at = other;
    });
    const Prediction here = plan.prediction;
    const Prediction there = in.task.cost.Predict(moved, in.workload);
    group.first_token_s = there.time_to_first_token_s - here.time_to_first_token_s;
    group.decode_token_s = there.decode_step.seconds - here.decode_step.seconds;
    const double saved = in.task.cost.WorkloadSeconds(moved, in.workload) -
                         in.task.cost.WorkloadSeconds(plan, in.workload);
    group.workload_s_per_gib = saved * static_cast<double>(kGiB) / static_cast<double>(sum.bytes);
  }
  group.why = Why(plan, group, sum);
  explanation.groups.push_back(std::move(group));
}

void AddGroups(const PlanInput& in, const Plan& plan, Explanation& explanation) {
  const std::uint64_t embedding =
      in.task.units.embedding.HostBytes(static_cast<int>(plan.nodes.size()));
  explanation.groups.push_back(
      {"embedding", Place::Host(), embedding, "always here: a step reads single rows", 0, 0, 0});
  for (const Kind& kind : Kinds(in)) {
    for (int d = 0; d < static_cast<int>(plan.devices.size()); ++d) {
      AddGroup(in, plan, kind, Place::Device(d), explanation);
    }
    AddGroup(in, plan, kind, Place::Host(), explanation);
  }
}

void Scale(RateTable& table, double factor) {
  for (double& seconds : table.seconds) seconds /= factor;
}

// Kernels that read weights get faster with the memory.
Machine WithHostBandwidth(Machine machine, double factor) {
  for (NodeRates& node : machine.rates.host.nodes) {
    for (ReadRate& rate : node.read) rate.bytes_per_s *= factor;
  }
  for (auto& row : machine.rates.host.between) {
    for (double& rate : row) rate *= factor;
  }
  for (TeamRates& team : machine.rates.host.teams) {
    for (auto& [type, table] : team.linear) Scale(table, factor);
    for (auto& [type, table] : team.experts) Scale(table, factor);
    Scale(team.attention, factor);
  }
  return machine;
}

void AddWhatIf(const std::string& change, const PlanTask& task, const Profile& profile,
               Explanation& explanation) {
  const Outcome outcome = FindPlan(task, profile, Effort::kFull);
  if (outcome.fits) explanation.what_ifs.push_back({change, outcome.plan.prediction});
}

void AddWhatIfs(const PlanTask& task, const Profile& profile, const Plan& plan,
                Explanation& explanation) {
  for (const PlanDevice& device : plan.devices) {
    Machine machine = task.machine;
    Profile larger = profile;
    MemoryBudget& budget = larger.device_budgets[std::to_string(device.index)];
    budget = {device.budget_bytes + kGiB, std::nullopt};
    for (Device& d : machine.devices) {
      if (d.index == device.index) d.memory_bytes += kGiB;
    }
    const PlanTask with(task.config, task.tensors, machine, task.options);
    AddWhatIf(fmt::format("1 GiB more on {}", device.name), with, larger, explanation);
  }
  const PlanTask faster(task.config, task.tensors, WithHostBandwidth(task.machine, 1.25),
                        task.options);
  AddWhatIf("a CPU and memory 25 % faster", faster, profile, explanation);
}

}  // namespace

Explanation Explain(const Config& config, const TensorList& tensors, const Machine& machine,
                    const Profile& profile, const PlanOptions& options, const Plan& plan) {
  const PlanTask task(config, tensors, machine, options);
  const PlanInput in(task, profile);
  Explanation explanation;
  explanation.plan = plan;
  AddGroups(in, plan, explanation);
  AddWhatIfs(task, profile, plan, explanation);
  return explanation;
}

double StreamedFirstToken(const Config& config, const TensorList& tensors, const Machine& machine,
                          const Profile& profile, const PlanOptions& options, const Plan& plan) {
  const auto on_host = [](const LayerPlan& layer) {
    return std::ranges::find(layer.experts, Place::Host()) != layer.experts.end();
  };
  const bool may = profile.prefill_experts != Profile::PrefillExperts::kHost &&
                   !plan.stream_prefill && !plan.devices.empty() && !plan.devices[0].shares_cores;
  if (!may || std::ranges::none_of(plan.layers, on_host)) return 0;
  const PlanTask task(config, tensors, machine, options);
  Plan streamed = plan;
  streamed.stream_prefill = true;
  return task.cost.Predict(streamed, WorkloadOf(profile)).time_to_first_token_s;
}

}  // namespace tandem
