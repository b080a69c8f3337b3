#include "runtime/tune_candidates.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>
#include <string_view>

#include "memory/error.h"
#include "placement/profile_files.h"
#include "placement/resources.h"
#include "placement/settings.h"
#include "runtime/pin_profile.h"

namespace tandem {
namespace {

bool OnDevice(Place place) { return place.on_device(); }

bool UsesDevice(const Plan& plan) {
  return plan.head.on_device() || std::ranges::any_of(plan.layers, [](const LayerPlan& l) {
           return l.attention.on_device() || l.dense.on_device() || l.router.on_device() ||
                  l.shared.on_device() || std::ranges::any_of(l.experts, OnDevice);
         });
}

// The devices of the plan, or else the one that a plan would get. What shares the cores has its
// number of threads for the life of the process.
std::vector<PlanDevice> DevicesToUse(const Machine& machine, const Profile& profile,
                                     const Plan& start, int cores) {
  if (!start.devices.empty()) return start.devices;
  if (profile.device == "none" || machine.devices.empty()) return {};
  const bool automatic = profile.device == "auto";
  const auto gpu = std::ranges::find(machine.devices, false, &Device::shares_cores);
  const Device* device = !automatic ? FindDevices(machine, profile.device).front()
                         : gpu != machine.devices.end() ? &*gpu
                                                        : &machine.devices.front();
  PlanDevice use;
  use.index = device->index;
  use.name = device->name;
  use.shares_cores = device->shares_cores;
  if (use.shares_cores) use.threads = profile.device_threads.value_or(std::max(1, cores / 2));
  return {use};
}

int TotalThreads(const Plan& plan) {
  int threads = 0;
  for (const PlanNode& node : plan.nodes) threads += static_cast<int>(node.cores.size());
  return threads;
}

// What a shipped profile may add: where things lie, and how much of them.
bool PlacesThings(std::string_view path) {
  constexpr std::string_view kPaths[] = {"device", "threads", "device_threads", "workload.chunk",
                                         "rules"};
  return path.starts_with("placement.") || path.starts_with("memory.") ||
         std::ranges::find(kPaths, path) != std::end(kPaths);
}

// The user's profile with what a shipped one says of placement, where the user left it open: all
// else, such as what changes results or how a device is driven, is no trial's to change.
Profile WithPlacement(const Profile& user, const Profile& shipped) {
  Profile both = user;
  const auto is_budget = [](const Setting& s) { return s.path.starts_with("memory."); };
  // A budget of one device goes before that of all: a user's would be overruled.
  const bool has_budget = std::ranges::any_of(
      Settings(), [&](const Setting& s) { return is_budget(s) && !IsDefault(s, user); });
  for (const Setting& setting : Settings()) {
    if (!PlacesThings(setting.path) || !IsDefault(setting, user)) continue;
    if (!has_budget || !is_budget(setting)) Copy(setting, shipped, both);
  }
  return both;
}

// Whether the user left all of the placement to the planner.
bool LeavesAll(const Profile& p) {
  const auto free = [](Side side) { return side == Side::kAuto; };
  return free(p.attention) && free(p.dense) && free(p.shared_experts) && free(p.router) &&
         free(p.head) && free(p.kv_place) && p.rules.empty() && !p.device_layers &&
         p.experts == Profile::Experts::kAuto && p.device != "none" && !p.threads && !p.chunk;
}

struct RoleOfLayer {
  const char* name;
  Side Profile::*side;
  Place LayerPlan::*place;
  bool moe, dense;  // in which layers
};
constexpr RoleOfLayer kRoles[] = {
    {"attention", &Profile::attention, &LayerPlan::attention, true, true},
    {"dense MLPs", &Profile::dense, &LayerPlan::dense, false, true},
    {"routers", &Profile::router, &LayerPlan::router, true, false},
    {"shared experts", &Profile::shared_experts, &LayerPlan::shared, true, false},
};

}  // namespace

TuneCandidates::TuneCandidates(const Model& model, const Machine& machine, const Profile& profile,
                               const PlanOptions& options, const Plan& start)
    : model_(model),
      machine_(machine),
      profile_(profile),
      options_(options),
      cost_(model.config, model.tensors, machine, options.statistics),
      workload_(WorkloadOf(profile)) {
  for (const Node& node : machine.nodes) cores_ += static_cast<int>(node.cores.size());
  devices_ = DevicesToUse(machine, profile, start, cores_);
}

int TuneCandidates::DeviceThreads() const {
  for (const PlanDevice& device : devices_) {
    if (device.shares_cores) return device.threads;
  }
  return 0;
}

bool TuneCandidates::OnOurDevices(const Plan& plan) const {
  const auto same = [](const PlanDevice& a, const PlanDevice& b) {
    return a.index == b.index && a.threads == b.threads;
  };
  return plan.devices.size() <= devices_.size() &&
         std::equal(plan.devices.begin(), plan.devices.end(), devices_.begin(), same);
}

Plan TuneCandidates::WithOurDevices(Plan plan) const {
  const auto renumber = [&](Place& place) {
    if (!place.on_device()) return;
    const int index = plan.devices[static_cast<std::size_t>(place.index)].index;
    const auto at = std::ranges::find(devices_, index, &PlanDevice::index);
    place = at == devices_.end() ? Place::Host()
                                 : Place::Device(static_cast<int>(at - devices_.begin()));
  };
  renumber(plan.head);
  for (LayerPlan& layer : plan.layers) {
    for (Place* role : {&layer.attention, &layer.dense, &layer.router, &layer.shared}) {
      renumber(*role);
    }
    std::ranges::for_each(layer.experts, renumber);
  }
  plan.devices = devices_;
  return plan;
}

// A plan that does not fit or that the settings contradict is no candidate.
std::optional<Plan> TuneCandidates::TryPlan(const Profile& profile) const {
  try {
    return MakePlan(model_.config, model_.tensors, machine_, profile, options_);
  } catch (const OpenClError&) {
    return std::nullopt;
  } catch (const ConfigError&) {
    return std::nullopt;
  }
}

std::optional<TuneCandidate> TuneCandidates::Pin(std::string change, const Profile& profile,
                                                 const Plan& plan) const {
  TuneCandidate candidate{std::move(change), PinProfile(profile, plan), {}, 0};
  std::optional<Plan> pinned = TryPlan(candidate.profile);
  if (!pinned || PlacementKey(*pinned) != PlacementKey(plan)) return std::nullopt;
  candidate.plan = std::move(*pinned);
  candidate.predicted_s = cost_.WorkloadSeconds(candidate.plan, workload_);
  return candidate;
}

std::optional<TuneCandidate> TuneCandidates::FromProfile(std::string change,
                                                         const Profile& profile) const {
  const std::optional<Plan> plan = TryPlan(profile);
  return plan && OnOurDevices(*plan) ? Pin(std::move(change), profile, *plan) : std::nullopt;
}

std::vector<TuneCandidate> TuneCandidates::Shipped() const {
  std::vector<TuneCandidate> list;
  if (!LeavesAll(profile_)) return list;
  for (const ShippedProfile& shipped : ShippedProfiles()) {
    try {
      const Profile theirs = ResolveProfile(std::string(shipped.name), {});
      if (profile_.device != "auto" && theirs.device == "none") continue;  // the user named one
      Profile profile = WithPlacement(profile_, theirs);
      if (DeviceThreads() > 0 && !profile.device_threads) {
        profile.device_threads = DeviceThreads();
      }
      const std::optional<Plan> plan = TryPlan(profile);
      if (!plan || !OnOurDevices(*plan)) continue;
      auto candidate = Pin(fmt::format("shipped profile {}", shipped.name), profile, *plan);
      if (candidate) list.push_back(std::move(*candidate));
    } catch (const ConfigError&) {
      continue;  // it asks for memory or devices that are not here
    }
  }
  std::ranges::stable_sort(list, {}, &TuneCandidate::predicted_s);
  return list;
}

std::vector<TuneCandidate> TuneCandidates::Neighbours(const TuneCandidate& current,
                                                      std::int64_t most_rows) const {
  std::vector<TuneCandidate> list;
  if (MayUseDevice()) {
    AddExperts(current, list);
    AddRoles(current, list);
  }
  AddChunks(current, most_rows, list);
  AddThreads(current, list);
  std::ranges::stable_sort(list, {}, &TuneCandidate::predicted_s);
  return list;
}

void TuneCandidates::Add(std::string change, const TuneCandidate& current, Plan edited,
                         std::vector<TuneCandidate>& list) const {
  if (!UsesDevice(edited)) edited.devices.clear();
  if (edited.devices.empty() && profile_.device != "auto") return;  // the user named one
  Profile profile = PinProfile(current.profile, edited);
  // A device that shares the cores leaves fewer to the team, and none leaves all.
  const bool moved = edited.devices.empty() != current.plan.devices.empty();
  if (moved && DeviceThreads() > 0 && !profile_.threads) {
    profile.threads = edited.devices.empty() ? cores_ : ThreadsBeside(cores_, DeviceThreads());
    profile.node_threads.clear();
  }
  auto candidate = FromProfile(std::move(change), profile);
  if (candidate) list.push_back(std::move(*candidate));
}

// So many experts of every layer, those that are chosen most first.
void TuneCandidates::AddExperts(const TuneCandidate& current,
                                std::vector<TuneCandidate>& list) const {
  const std::int64_t E = model_.config.n_routed_experts;
  const bool ruled = std::ranges::any_of(profile_.rules, [](const Rule& rule) {
    return rule.role.empty() || rule.role == "routed_experts";
  });
  if (E == 0 || profile_.experts != Profile::Experts::kAuto || ruled) return;
  std::int64_t now = 0;
  for (const LayerPlan& layer : current.plan.layers) {
    now = std::max<std::int64_t>(now, std::ranges::count_if(layer.experts, OnDevice));
  }
  std::set<std::int64_t> counts{0, E / 8, E / 4, E / 2, 3 * E / 4, E, now - E / 16, now + E / 16};
  for (const std::int64_t count : counts) {
    if (count < 0 || count > E) continue;
    Plan edited = WithOurDevices(current.plan);
    for (std::size_t i = 0; i < edited.layers.size(); ++i) {
      std::vector<Place>& experts = edited.layers[i].experts;
      if (experts.empty()) continue;
      const std::vector<double>& shares =
          cost_.Shares(Phase::kDecode, static_cast<std::int64_t>(i));
      std::vector<std::size_t> order(experts.size());
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, std::greater(), [&](std::size_t e) { return shares[e]; });
      for (std::size_t k = 0; k < order.size(); ++k) {
        Place& place = experts[order[k]];
        if (static_cast<std::int64_t>(k) >= count) {
          place = Place::Host();
        } else if (!place.on_device()) {  // to all of them in turn
          place = Place::Device(static_cast<int>(k % devices_.size()));
        }
      }
    }
    Add(fmt::format("{} of {} experts a layer on the device", count, E), current, std::move(edited),
        list);
  }
}

void TuneCandidates::AddRoles(const TuneCandidate& current,
                              std::vector<TuneCandidate>& list) const {
  if (!profile_.rules.empty()) return;
  for (const Place place : {Place::Host(), Place::Device(0)}) {
    const char* where = place.on_device() ? "device" : "host";
    for (const RoleOfLayer& role : kRoles) {
      if (profile_.*role.side != Side::kAuto) continue;
      Plan edited = WithOurDevices(current.plan);
      for (LayerPlan& layer : edited.layers) {
        if (layer.moe ? role.moe : role.dense) layer.*role.place = place;
      }
      Add(fmt::format("{} on the {}", role.name, where), current, std::move(edited), list);
    }
    if (profile_.head != Side::kAuto) continue;
    Plan edited = WithOurDevices(current.plan);
    edited.head = place;
    Add(fmt::format("head on the {}", where), current, std::move(edited), list);
  }
  if (profile_.device != "auto" || !LeavesAll(profile_)) return;
  Plan host = WithOurDevices(current.plan);
  host.head = Place::Host();
  for (LayerPlan& layer : host.layers) {
    layer.attention = layer.dense = layer.router = layer.shared = Place::Host();
    std::ranges::fill(layer.experts, Place::Host());
  }
  Add("everything on the host", current, std::move(host), list);
}

void TuneCandidates::AddChunks(const TuneCandidate& current, std::int64_t most_rows,
                               std::vector<TuneCandidate>& list) const {
  if (profile_.chunk) return;
  const std::int64_t now = current.plan.max_rows;
  for (const std::int64_t rows : {now / 4, now / 2, now * 2, now * 4}) {
    if (rows < 16 || rows > most_rows) continue;
    Profile profile = current.profile;
    profile.chunk = rows;
    auto candidate = FromProfile(fmt::format("steps of up to {} rows", rows), profile);
    if (candidate) list.push_back(std::move(*candidate));
  }
}

void TuneCandidates::AddThreads(const TuneCandidate& current,
                                std::vector<TuneCandidate>& list) const {
  if (profile_.threads || !profile_.node_threads.empty()) return;
  const int now = TotalThreads(current.plan);
  std::set<int> counts{now / 2, now - 1, now + 1, cores_ - DeviceThreads(), cores_};
  for (const int threads : counts) {
    if (threads < 1 || threads > cores_ || threads == now) continue;
    Profile profile = current.profile;
    profile.threads = threads;
    profile.node_threads.clear();
    auto candidate = FromProfile(fmt::format("{} CPU threads", threads), profile);
    if (candidate) list.push_back(std::move(*candidate));
  }
}

}  // namespace tandem
