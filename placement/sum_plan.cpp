#include "placement/sum_plan.h"

#include "placement/profile_check.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

unsigned RolesOf(const ScratchUse& use) {
  return (use.attention ? kScratchAttention : 0U) | (use.mlp ? kScratchMlp : 0U) |
         (use.router ? kScratchRouter : 0U) | (use.experts ? kScratchExperts : 0U) |
         (use.head ? kScratchHead : 0U) | (use.cache ? kScratchCache : 0U) |
         (use.first ? kScratchFirst : 0U) | (use.feed ? kScratchFeed : 0U);
}

class Sums {
 public:
  Sums(const PlanInput& in, ScratchSizes& scratch, Filled& filled)
      : in_(in),
        scratch_(scratch),
        filled_(filled),
        nodes_(static_cast<int>(filled.plan.nodes.size())) {}

  void Run() {
    const Plan& plan = filled_.plan;
    Count(plan.embedding, in_.task.units.embedding, 0);
    Count(plan.head, in_.task.units.head, 0);
    for (std::size_t i = 0; i < plan.layers.size(); ++i) {
      const LayerUnits& units = in_.task.units.layers[i];
      for (std::size_t r = 0; r < kLayerRoleCount; ++r) {
        Count(plan.layers[i].*kLayerRoles[r].place, units.*kLayerRoles[r].unit,
              r == kAttention ? in_.kv_layer_bytes : 0);
      }
      for (std::size_t e = 0; e < units.experts.size(); ++e) {
        Count(plan.layers[i].experts[e], units.experts[e], 0);
      }
    }
    filled_.host_bytes += weights_;
    filled_.host_bytes += scratch_.Host(plan, RolesOf(UseOf(plan, Place::Host()))).bytes;
    filled_.host_bytes += ProgramBytes(in_.task.config, in_.task.tensors.all().size(), plan);
    filled_.layout = layout_;
    CountMissing();
  }

 private:
  // What the host has of it, and a number for where it is.
  void Count(Place place, const Unit& unit, std::uint64_t extra) {
    layout_ = (layout_ ^ static_cast<std::uint64_t>(place.on_device() ? place.index + 1 : 0)) *
              std::uint64_t{0x100000001b3};
    if (place.on_device()) {
      filled_.host_bytes += unit.vector_bytes;
      return;
    }
    weights_ += unit.HostBytes(nodes_);
    filled_.host_bytes += extra;
  }

  void CountMissing() {
    std::uint64_t host = filled_.host_bytes;
    const auto over = [](std::uint64_t bytes, std::uint64_t budget) {
      return bytes > budget ? bytes - budget : 0;
    };
    for (std::size_t d = 0; d < filled_.device_bytes.size(); ++d) {
      const PlanDevice& device = filled_.plan.devices[d];
      filled_.missing += over(filled_.device_bytes[d], device.budget_bytes);
      if (device.shares_cores) host += filled_.device_bytes[d];
    }
    filled_.missing += over(host, in_.host_budget);
    filled_.node_missing =
        ShareWeights(in_.task.machine, in_.profile, weights_, filled_.plan.nodes);
    if (over(host, in_.host_budget) == 0) filled_.missing += filled_.node_missing;
    if (!filled_.problem.empty() && filled_.missing == 0) filled_.missing = kNoSuchBuffer;
  }

  const PlanInput& in_;
  ScratchSizes& scratch_;
  Filled& filled_;
  std::uint64_t weights_ = 0;  // on the host, shared out over its nodes
  std::uint64_t layout_ = 0xcbf29ce484222325;
  const int nodes_;
};

}  // namespace

void SumUp(const PlanInput& input, ScratchSizes& scratch, Filled& filled) {
  Sums(input, scratch, filled).Run();
}

}  // namespace tandem
