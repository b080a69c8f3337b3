#include "placement/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/fit.h"
#include "placement/model_sizes.h"
#include "placement/profile_check.h"
#include "placement/resources.h"

namespace tandem {
namespace {

// The roles that every layer has at most one unit of, in the order in which the device is filled.
struct LayerRole {
  const char* key;   // in the profile
  const char* what;  // in the plan's table
  Side Profile::*side;
  Place LayerPlan::*place;
  Unit LayerUnits::*unit;
};
constexpr std::array<LayerRole, 4> kLayerRoles{
    {{"attention", "attention", &Profile::attention, &LayerPlan::attention, &LayerUnits::attention},
     {"dense", "dense MLP", &Profile::dense, &LayerPlan::dense, &LayerUnits::dense},
     {"router", "router", &Profile::router, &LayerPlan::router, &LayerUnits::router},
     {"shared_experts", "shared experts", &Profile::shared_experts, &LayerPlan::shared,
      &LayerUnits::shared}}};
constexpr const LayerRole& kAttention = kLayerRoles[0];
constexpr const LayerRole& kRouter = kLayerRoles[2];

// What a plan is made from, measured once.
struct Input {
  const Config& config;
  const Profile& profile;
  const Machine& machine;
  const Device* device;  // null: none
  ModelUnits units;
  Threads threads;
  std::uint64_t kv_layer_bytes = 0;
};

// Fills the device: first with what the profile demands, whatever its size (CheckFits refuses what
// does not fit, with all the numbers), then with what it leaves to the planner, as far as it goes.
class Placer {
 public:
  Placer(const Input& in, Plan& plan) : in_(in), plan_(plan) {
    const std::int64_t rows = plan.max_rows;
    used_ = ScratchBytes(in.config, rows, Place::Kind::kDevice, 0);
    for (const ScratchBuffer& b : ScratchBuffers(in.config, rows, Place::Kind::kDevice, 0)) {
      scratch_fits_ = scratch_fits_ && b.bytes <= in.device->max_alloc_bytes;
    }
  }

  void Run() {
    PlaceRoles(Side::kDevice);
    if (in_.profile.head == Side::kDevice) Demand(plan_.head, in_.units.head, 0, "head");
    PlaceDemandedExperts();
    PlaceRoles(Side::kAuto);
    if (in_.profile.head == Side::kAuto) Offer(plan_.head, in_.units.head, 0);
    if (in_.profile.experts == Profile::Experts::kAuto) PlaceAutoExperts();
  }

 private:
  void PlaceRoles(Side side) {
    for (const LayerRole& role : kLayerRoles) {
      if (in_.profile.*role.side != side) continue;
      side == Side::kDevice ? DemandRole(role) : OfferRole(role);
    }
  }

  std::pair<std::size_t, std::size_t> LayerRange() const {
    if (!in_.profile.device_layers) return {0, plan_.layers.size()};
    return {static_cast<std::size_t>(in_.profile.device_layers->first),
            static_cast<std::size_t>(in_.profile.device_layers->second) + 1};
  }

  // Beside its weights: the KV cache goes with attention.
  std::uint64_t ExtraBytes(const LayerRole& role) const {
    return &role == &kAttention ? in_.kv_layer_bytes : 0;
  }

  void DemandRole(const LayerRole& role) {
    const auto [first, end] = LayerRange();
    for (std::size_t i = first; i < end; ++i) {
      Demand(plan_.layers[i].*role.place, in_.units.layers[i].*role.unit, ExtraBytes(role),
             role.key);
    }
  }

  // Layer by layer, up to the first that does not fit: the work on one side stays together.
  void OfferRole(const LayerRole& role) {
    const auto [first, end] = LayerRange();
    for (std::size_t i = first; i < end; ++i) {
      LayerPlan& layer = plan_.layers[i];
      if (&role == &kRouter && !layer.attention.on_device()) continue;
      if (!Offer(layer.*role.place, in_.units.layers[i].*role.unit, ExtraBytes(role))) return;
    }
  }

  std::vector<int> ExpertOrder() const {
    std::vector<int> order = in_.profile.experts_order;
    std::vector<bool> named(static_cast<std::size_t>(in_.config.n_routed_experts));
    for (int id : order) named[static_cast<std::size_t>(id)] = true;
    for (std::size_t id = 0; id < named.size(); ++id) {
      if (!named[id]) order.push_back(static_cast<int>(id));
    }
    return order;
  }

  // Calls place(layer, expert) for the first `count` experts of the order, each in every layer
  // before the next, until it returns false.
  template <class F>
  void ForExperts(std::int64_t count, F place) {
    const std::vector<int> order = ExpertOrder();
    for (std::int64_t k = 0; k < count; ++k) {
      const auto id = static_cast<std::size_t>(order[static_cast<std::size_t>(k)]);
      for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
        if (plan_.layers[i].moe && !place(i, id)) return;
      }
    }
  }

  void DemandExpert(std::size_t layer, std::size_t id) {
    Demand(plan_.layers[layer].experts[id], in_.units.layers[layer].experts[id], 0,
           "routed_experts");
  }

  void PlaceDemandedExperts() {
    const std::int64_t all = in_.config.n_routed_experts;
    if (in_.profile.experts == Profile::Experts::kShare) {
      ForExperts(SharedCount(), [&](std::size_t i, std::size_t id) {
        DemandExpert(i, id);
        return true;
      });
    }
    if (in_.profile.experts != Profile::Experts::kBytes) return;
    std::uint64_t left = in_.profile.experts_bytes;
    ForExperts(all, [&](std::size_t i, std::size_t id) {
      const std::uint64_t bytes = in_.units.layers[i].experts[id].device_bytes;
      if (bytes > left) return false;
      left -= bytes;
      DemandExpert(i, id);
      return true;
    });
  }

  // A share above zero means at least one expert.
  std::int64_t SharedCount() const {
    const auto all = static_cast<double>(in_.config.n_routed_experts);
    const auto count = static_cast<std::int64_t>(std::llround(in_.profile.experts_share * all));
    return in_.profile.experts_share > 0 ? std::max<std::int64_t>(count, 1) : 0;
  }

  // A device that shares the cores gains nothing from the last expert, and with half of them both
  // sides have work.
  void PlaceAutoExperts() {
    const std::int64_t all = in_.config.n_routed_experts;
    ForExperts(in_.device->shares_cores ? (all + 1) / 2 : all, [&](std::size_t i, std::size_t id) {
      return Offer(plan_.layers[i].experts[id], in_.units.layers[i].experts[id], 0);
    });
  }

  // The largest range that must lie in one buffer.
  std::uint64_t BufferBytes(const Unit& unit, std::uint64_t extra, bool is_expert) const {
    return std::max({is_expert ? unit.device_bytes : unit.matrix_bytes, extra});
  }

  static bool IsExpert(const Unit& unit) {
    return unit.largest && unit.largest->role == Role::kRouted;
  }

  bool Offer(Place& place, const Unit& unit, std::uint64_t extra) {
    if (unit.tensors == 0) return true;
    const std::uint64_t bytes = unit.device_bytes + extra;
    const std::uint64_t budget = plan_.devices[0].budget_bytes;
    if (!scratch_fits_ || used_ > budget || bytes > budget - used_) return false;
    if (BufferBytes(unit, extra, IsExpert(unit)) > in_.device->max_alloc_bytes) return false;
    Put(place, bytes);
    return true;
  }

  void Demand(Place& place, const Unit& unit, std::uint64_t extra, const char* key) {
    if (unit.tensors == 0) return;
    CheckBuffers(unit, extra, key);
    Put(place, unit.device_bytes + extra);
  }

  void CheckBuffers(const Unit& unit, std::uint64_t extra, const char* key) const {
    const std::uint64_t most = in_.device->max_alloc_bytes;
    if (!scratch_fits_) {
      Throw<OpenClError>(
          "{}: a step of {} rows needs a buffer larger than the {} that it allows; "
          "lower workload.chunk",
          in_.device->name, plan_.max_rows, FormatBytes(most));
    }
    if (BufferBytes(unit, extra, IsExpert(unit)) <= most) return;
    const bool kv = extra > most;
    Throw<OpenClError>(
        "{}: {} needs {} in one buffer, the device allows {}; {}", in_.device->name,
        kv ? "a layer's KV cache" : unit.largest->name,
        FormatBytes(BufferBytes(unit, extra, IsExpert(unit))), FormatBytes(most),
        kv ? std::string("lower workload.context") : fmt::format("set placement.{} to host", key));
  }

  void Put(Place& place, std::uint64_t bytes) {
    place = Place::Device(0);
    used_ += bytes;
  }

  const Input& in_;
  Plan& plan_;
  std::uint64_t used_ = 0;
  bool scratch_fits_ = true;
};

// Adds up the table's lines, one per purpose and place.
class Items {
 public:
  void Add(const char* what, Place place, std::int64_t count, std::uint64_t bytes) {
    if (bytes == 0) return;
    const auto line = std::ranges::find_if(
        items_, [&](const PlanItem& i) { return i.place == place && i.what == what; });
    if (line == items_.end()) {
      items_.push_back({what, place, count, bytes});
    } else {
      line->count += count;
      line->bytes += bytes;
    }
  }

  void AddUnit(const char* what, Place place, const Unit& unit, std::int64_t count) {
    Add(what, place, count, place.on_device() ? unit.device_bytes : unit.host_bytes);
    if (place.on_device()) copies_ += unit.vector_bytes;
  }

  std::vector<PlanItem> Take() {
    Add("host copies of norms", Place::Host(), 1, copies_);
    return std::move(items_);
  }

 private:
  std::vector<PlanItem> items_;
  std::uint64_t copies_ = 0;
};

void AddLayers(const Input& in, const Plan& plan, Items& items) {
  for (const LayerRole& role : kLayerRoles) {
    for (std::size_t i = 0; i < plan.layers.size(); ++i) {
      const Place place = plan.layers[i].*role.place;
      const Unit& unit = in.units.layers[i].*role.unit;
      items.AddUnit(role.what, place, unit, unit.tensors);
      if (&role == &kAttention) items.Add("KV cache", place, plan.kv_blocks, in.kv_layer_bytes);
    }
  }
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const std::vector<Place>& experts = plan.layers[i].experts;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      items.AddUnit("routed experts", experts[e], in.units.layers[i].experts[e], 1);
    }
  }
}

void FillItems(const Input& in, Plan& plan) {
  Items items;
  items.AddUnit("embedding", plan.embedding, in.units.embedding, in.units.embedding.tensors);
  AddLayers(in, plan, items);
  items.AddUnit("head", plan.head, in.units.head, in.units.head.tensors);
  items.Add("scratch", Place::Host(), 1,
            ScratchBytes(in.config, plan.max_rows, Place::Kind::kHost, in.threads.total()));
  if (!plan.devices.empty()) {
    items.Add("scratch", Place::Device(0), 1,
              ScratchBytes(in.config, plan.max_rows, Place::Kind::kDevice, 0));
  }
  plan.items = items.Take();
  for (const PlanItem& item : plan.items) {
    if (!item.place.on_device()) plan.host_bytes += item.bytes;
  }
}

bool UsesDevice(const Plan& plan) {
  const auto on_device = [](Place place) { return place.on_device(); };
  return plan.head.on_device() || std::ranges::any_of(plan.layers, [&](const LayerPlan& layer) {
           return layer.attention.on_device() || layer.dense.on_device() ||
                  layer.router.on_device() || layer.shared.on_device() ||
                  std::ranges::any_of(layer.experts, on_device);
         });
}

// A plan with everything on the host.
Plan HostPlan(const Input& in, Precision precision) {
  Plan plan;
  plan.nodes = in.threads.nodes;
  plan.layers.resize(in.units.layers.size());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    plan.layers[i].moe = in.config.IsMoeLayer(static_cast<std::int64_t>(i));
    plan.layers[i].experts.resize(in.units.layers[i].experts.size());
  }
  plan.kv_type = KvType(in.profile, precision);
  plan.kv_blocks = KvBlockCount(in.profile.context, in.profile.max_sequences);
  plan.max_rows = in.profile.chunk;
  plan.max_sequences = in.profile.max_sequences;
  plan.precision = precision;
  plan.host_budget_bytes = HostBudget(in.machine, in.profile);
  return plan;
}

PlanDevice DescribeDevice(const Input& in) {
  PlanDevice device;
  device.index = in.device->index;
  device.name = in.device->name;
  device.shares_cores = in.device->shares_cores;
  device.threads = in.threads.device_threads;
  device.budget_bytes = DeviceBudget(in.machine, in.profile, *in.device);
  device.max_alloc_bytes = in.device->max_alloc_bytes;
  return device;
}

Plan PlanWith(const Device* device, const Config& config, const TensorList& tensors,
              const Machine& machine, const Profile& profile, Precision precision) {
  Input in{config, profile, machine, device, {}, ShareCores(machine, profile, device), 0};
  in.units = MeasureModel(config, tensors, static_cast<int>(in.threads.nodes.size()));
  in.kv_layer_bytes = KvLayerBytes(config, KvBlockCount(profile.context, profile.max_sequences),
                                   KvType(profile, precision));
  Plan plan = HostPlan(in, precision);
  if (device) {
    plan.devices.push_back(DescribeDevice(in));
    Placer(in, plan).Run();
  }
  FillItems(in, plan);
  return plan;
}

// A device that is given nothing is not opened, and takes no cores from the CPU team.
std::string UnusedNote(const Device& device, const Profile& profile) {
  return fmt::format("{} is not used: {}", device.name,
                     WantsDevice(profile) ? "nothing that may go there fits its budget"
                                          : "the profile places everything on the host");
}

}  // namespace

Plan MakePlan(const Config& config, const TensorList& tensors, const Machine& machine,
              const Profile& profile, Precision precision) {
  CheckProfile(profile, config);
  std::vector<std::string> notes;
  const Device* device = ChooseDevice(machine, profile, notes);
  if (!device) CheckNothingDemanded(profile, machine);
  Plan plan = PlanWith(device, config, tensors, machine, profile, precision);
  if (device && !UsesDevice(plan)) {
    if (profile.device != "auto" && WantsDevice(profile)) CheckFits(plan);
    notes.push_back(UnusedNote(*device, profile));
    plan = PlanWith(nullptr, config, tensors, machine, profile, precision);
  }
  plan.notes = std::move(notes);
  CheckFits(plan);
  return plan;
}

}  // namespace tandem
