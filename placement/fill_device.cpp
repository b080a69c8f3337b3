#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/plan_input.h"

namespace tandem {
namespace {

class Placer {
 public:
  Placer(const PlanInput& in, Plan& plan) : in_(in), plan_(plan) {
    for (const ScratchBuffer& b : ScratchBuffers(in.config, in.step, Place::Kind::kDevice)) {
      used_ += b.bytes;
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

  const PlanInput& in_;
  Plan& plan_;
  std::uint64_t used_ = 0;
  bool scratch_fits_ = true;
};

}  // namespace

void FillDevice(const PlanInput& input, Plan& plan) { Placer(input, plan).Run(); }

}  // namespace tandem
