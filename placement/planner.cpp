#include "placement/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "memory/error.h"
#include "placement/fit.h"
#include "placement/plan_input.h"
#include "placement/profile_check.h"
#include "placement/resources.h"

namespace tandem {
namespace {

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

void AddLayers(const PlanInput& in, const Plan& plan, Items& items) {
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

void FillItems(const PlanInput& in, Plan& plan) {
  Items items;
  items.AddUnit("embedding", plan.embedding, in.units.embedding, in.units.embedding.tensors);
  AddLayers(in, plan, items);
  items.AddUnit("head", plan.head, in.units.head, in.units.head.tensors);
  items.Add("scratch", Place::Host(), 1, ScratchBytes(in.config, in.step, Place::Kind::kHost));
  if (!plan.devices.empty()) {
    items.Add("scratch", Place::Device(0), 1,
              ScratchBytes(in.config, in.step, Place::Kind::kDevice));
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
Plan HostPlan(const PlanInput& in, Precision precision) {
  Plan plan;
  plan.nodes = in.threads.nodes;
  plan.layers.resize(in.units.layers.size());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    plan.layers[i].moe = in.config.IsMoeLayer(static_cast<std::int64_t>(i));
    plan.layers[i].experts.resize(in.units.layers[i].experts.size());
  }
  plan.kv_type = KvType(in.profile, precision);
  plan.activation_type = in.profile.activation_type;
  if (precision == Precision::kExact && plan.activation_type != DType::kF32) {
    Throw<ConfigError>(
        "{}: 'activations.type': bf16 rounds, and --precision exact does not: change one",
        ProfileName(in.profile));
  }
  plan.kv_blocks = in.step.kv_blocks;
  plan.max_rows = in.profile.chunk.value_or(512);
  plan.max_sequences = in.profile.max_sequences;
  plan.precision = precision;
  plan.host_budget_bytes = HostBudget(in.machine, in.profile);
  return plan;
}

PlanDevice DescribeDevice(const PlanInput& in) {
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
  PlanInput in{config, profile, machine, device, {}, ShareCores(machine, profile, device), {}, 0};
  in.units = MeasureModel(config, tensors, static_cast<int>(in.threads.nodes.size()));
  in.step = {profile.chunk.value_or(512), KvBlockCount(profile.context, profile.max_sequences),
             profile.max_sequences, in.threads.total()};
  in.kv_layer_bytes = KvLayerBytes(config, in.step.kv_blocks, KvType(profile, precision));
  Plan plan = HostPlan(in, precision);
  if (device) {
    plan.devices.push_back(DescribeDevice(in));
    FillDevice(in, plan);
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
              const Profile& profile, const PlanOptions& options) {
  const Precision precision = options.precision;
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
