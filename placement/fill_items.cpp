#include <algorithm>
#include <utility>
#include <vector>

#include "placement/fill_plan.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

// Adds up the table's lines, one per purpose and place.
class Items {
 public:
  explicit Items(const Plan& plan) : plan_(plan) {}

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
    Add(what, place, count,
        place.on_device() ? unit.DeviceBytes(MaxAlloc(place)) : unit.HostBytes(nodes_));
    if (place.on_device()) copies_ += unit.vector_bytes;
  }

  std::vector<PlanItem> Take() {
    Add("host copies of norms", Place::Host(), 1, copies_);
    return std::move(items_);
  }

 private:
  std::uint64_t MaxAlloc(Place place) const {
    return plan_.devices[static_cast<std::size_t>(place.index)].max_alloc_bytes;
  }

  const Plan& plan_;
  const int nodes_ = static_cast<int>(plan_.nodes.size());
  std::vector<PlanItem> items_;
  std::uint64_t copies_ = 0;
};

void AddLayers(const PlanInput& in, const Plan& plan, Items& items) {
  for (std::size_t r = 0; r < kLayerRoleCount; ++r) {
    for (std::size_t i = 0; i < plan.layers.size(); ++i) {
      const Place place = plan.layers[i].*kLayerRoles[r].place;
      const Unit& unit = in.task.units.layers[i].*kLayerRoles[r].unit;
      items.AddUnit(kLayerRoles[r].what, place, unit, unit.tensors);
      if (r == kAttention) items.Add("KV cache", place, plan.kv_blocks, in.kv_layer_bytes);
    }
  }
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const std::vector<Place>& experts = plan.layers[i].experts;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      items.AddUnit("routed experts", experts[e], in.task.units.layers[i].experts[e], 1);
    }
  }
}

}  // namespace

void FillItems(const PlanInput& in, Plan& plan) {
  const Config& config = in.task.config;
  Items items(plan);
  items.AddUnit("embedding", plan.embedding, in.task.units.embedding,
                in.task.units.embedding.tensors);
  AddLayers(in, plan, items);
  items.AddUnit("head", plan.head, in.task.units.head, in.task.units.head.tensors);
  const auto scratch = [&](Place place, const std::vector<ScratchBuffer>& buffers) {
    items.Add("scratch", place, std::ssize(buffers), SumBytes(buffers));
  };
  scratch(Place::Host(), HostScratch(config, plan, UseOf(plan, Place::Host())));
  for (int d = 0; d < static_cast<int>(plan.devices.size()); ++d) {
    scratch(Place::Device(d), DeviceScratch(config, plan, UseOf(plan, Place::Device(d))));
  }
  items.Add("program", Place::Host(), 1, ProgramBytes(config, in.task.tensors.all().size(), plan));
  plan.items = items.Take();
  plan.host_bytes = 0;
  for (const PlanItem& item : plan.items) {
    if (!item.place.on_device()) plan.host_bytes += item.bytes;
  }
}

}  // namespace tandem
