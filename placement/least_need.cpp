#include "placement/least_need.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "placement/byte_size.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

struct Need {
  std::string what;
  std::uint64_t bytes = 0;
  std::uint64_t buffer = 0;  // the largest
};

class Needs {
 public:
  Needs(const PlanInput& input, const Plan& plan, std::uint64_t max_alloc)
      : in_(input), plan_(plan), max_alloc_(max_alloc) {}

  std::vector<Need> Run() {
    const auto& layers = in_.task.units.layers;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      Role(i, kAttention, &ScratchUse::attention, in_.kv_layer_bytes);
      Role(i, kDense, &ScratchUse::mlp, 0);
      Role(i, kShared, &ScratchUse::mlp, 0);
      for (std::size_t e = 0; e < layers[i].experts.size(); ++e) {
        if (in_.wants.experts[i][e].side == Side::kHost) continue;
        const Unit& unit = layers[i].experts[e];
        Add(fmt::format("an expert of layer {}", i), unit, unit.device_bytes, &ScratchUse::experts,
            0);
        break;  // they are alike
      }
    }
    if (in_.wants.head.side != Side::kHost) {
      const Unit& head = in_.task.units.head;
      Add("the head", head, head.least_buffer, &ScratchUse::head, 0);
    }
    return std::move(needs_);
  }

 private:
  void Role(std::size_t layer, std::size_t role, bool ScratchUse::*use, std::uint64_t kv) {
    if (in_.wants.roles[layer][role].side == Side::kHost) return;
    const Unit& unit = in_.task.units.layers[layer].*kLayerRoles[role].unit;
    Add(fmt::format("{} of layer {}", kLayerRoles[role].what, layer), unit, unit.least_buffer, use,
        kv);
  }

  void Add(std::string what, const Unit& unit, std::uint64_t in_one_buffer, bool ScratchUse::*role,
           std::uint64_t kv) {
    if (unit.tensors == 0) return;
    ScratchUse use;
    use.*role = use.first = true;
    Need need{std::move(what), unit.DeviceBytes(max_alloc_) + kv,
              std::max(in_one_buffer, kv > 0 ? in_.KvBuffer(max_alloc_) : 0)};
    need.bytes += SumBytes(DeviceScratch(in_.task.config, plan_, use));
    need.buffer = std::max(need.buffer, LargestBuffer(in_.task.config, plan_, use).bytes());
    needs_.push_back(std::move(need));
  }

  const PlanInput& in_;
  const Plan& plan_;
  const std::uint64_t max_alloc_;
  std::vector<Need> needs_;
};

}  // namespace

std::string LeastNeed(const PlanInput& input, const Plan& plan, std::uint64_t budget,
                      std::uint64_t max_alloc) {
  const std::vector<Need> needs = Needs(input, plan, max_alloc).Run();
  if (needs.empty()) return "the profile leaves nothing for it; see placement";
  const Need& least = *std::ranges::min_element(needs, {}, &Need::bytes);
  if (least.bytes > budget) {
    return fmt::format(
        "the least, {}, needs {} with the activations of a step of {} rows, and its budget is {}: "
        "raise memory.device, or lower workload.chunk or workload.context",
        least.what, FormatBytes(least.bytes), plan.max_rows, FormatBytes(budget));
  }
  const Need& smallest = *std::ranges::min_element(needs, {}, &Need::buffer);
  return fmt::format(
      "the least, {}, needs a buffer of {} for a step of {} rows, and the device's largest has {} "
      "(CL_DEVICE_MAX_MEM_ALLOC_SIZE): lower workload.chunk or workload.context",
      smallest.what, FormatBytes(smallest.buffer), plan.max_rows, FormatBytes(max_alloc));
}

}  // namespace tandem
