#include "placement/buffer_notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "placement/byte_size.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

constexpr std::array<bool ScratchUse::*, kLayerRoleCount> kUseOf{
    &ScratchUse::attention, &ScratchUse::mlp, &ScratchUse::router, &ScratchUse::mlp};

// What needs a larger buffer than there is, and what helps.
struct TooLarge {
  std::string what;
  std::uint64_t bytes = 0;
  const char* way_out = "";
};

class Notes {
 public:
  Notes(const PlanInput& in, const Resources& resources, const Plan& plan)
      : in_(in), resources_(resources), plan_(plan), first_(*resources.devices[0]) {}

  std::vector<std::string> Run() {
    Rows();
    for (std::size_t r = 0; r < kLayerRoleCount; ++r) Role(r);
    Head();
    Experts();
    Cache();
    return std::move(notes_);
  }

 private:
  static std::string Text(const TooLarge& what, const std::string& name, std::uint64_t most) {
    return fmt::format(
        "{} needs {} in one buffer, and the largest of {} has {} "
        "(CL_DEVICE_MAX_MEM_ALLOC_SIZE){}",
        what.what, FormatBytes(what.bytes), name, FormatBytes(most), what.way_out);
  }

  // Why steps have no more rows.
  void Rows() {
    const auto larger = std::ranges::upper_bound(in_.chunks, plan_.max_rows);
    if (larger == in_.chunks.end()) return;
    Plan next = plan_;
    next.max_rows = *larger;
    for (std::size_t d = 0; d < plan_.devices.size(); ++d) {
      const ScratchUse use = UseOf(plan_, Place::Device(static_cast<int>(d)));
      const ScratchBuffer buffer = LargestBuffer(in_.task.config, next, use);
      const PlanDevice& device = plan_.devices[d];
      if (buffer.bytes() <= device.max_alloc_bytes) continue;
      const std::string what =
          fmt::format("a step has {} rows at the most{}: one of {}", plan_.max_rows,
                      in_.profile.chunk ? ", fewer than workload.chunk" : "", *larger);
      notes_.push_back(Text({what, buffer.bytes()}, device.name, device.max_alloc_bytes));
      return;
    }
    if (!in_.profile.chunk) return;
    notes_.push_back(
        fmt::format("a step has {} rows at the most, fewer than workload.chunk: with {} less would "
                    "be on {}, as "
                    "its largest buffer has {} (CL_DEVICE_MAX_MEM_ALLOC_SIZE)",
                    plan_.max_rows, *larger, first_.name, FormatBytes(first_.max_alloc_bytes)));
  }

  std::optional<TooLarge> Activations(bool ScratchUse::*role) const {
    ScratchUse use = UseOf(plan_, Place::Device(0));
    use.*role = use.first = true;
    const ScratchBuffer buffer = LargestBuffer(in_.task.config, plan_, use);
    if (buffer.bytes() <= first_.max_alloc_bytes) return {};
    return TooLarge{fmt::format("a step of {} rows", plan_.max_rows), buffer.bytes(),
                    "; lower workload.chunk"};
  }

  std::optional<TooLarge> Weights(const Unit& unit) const {
    if (unit.least_buffer <= first_.max_alloc_bytes) return {};
    return TooLarge{unit.least->name, unit.least_buffer};
  }

  std::optional<TooLarge> Cached() const {
    const std::uint64_t kv = in_.KvBuffer(first_.max_alloc_bytes);
    if (kv <= first_.max_alloc_bytes) return {};
    return TooLarge{"a layer's KV cache", kv, "; lower workload.context"};
  }

  void Stays(const char* what, std::optional<TooLarge> reason) {
    if (!reason) return;
    reason->what = fmt::format("{} on the host: {}", what, reason->what);
    notes_.push_back(Text(*reason, first_.name, first_.max_alloc_bytes));
  }

  // Of the first layer that might have it there.
  void Role(std::size_t role) {
    for (std::size_t i = 0; i < in_.wants.roles.size(); ++i) {
      const Unit& unit = in_.task.units.layers[i].*kLayerRoles[role].unit;
      const bool stays = in_.wants.roles[i][role].side == Side::kAuto && unit.tensors > 0 &&
                         !(plan_.layers[i].*kLayerRoles[role].place).on_device();
      if (!stays) continue;
      std::optional<TooLarge> reason = role == kAttention ? Cached() : std::nullopt;
      if (!reason) reason = Weights(unit);
      if (!reason) reason = Activations(kUseOf[role]);
      return Stays(
          fmt::format("{} {}", kLayerRoles[role].what, role == kShared ? "stay" : "stays").c_str(),
          reason);
    }
  }

  void Head() {
    if (in_.wants.head.side != Side::kAuto || plan_.head.on_device()) return;
    std::optional<TooLarge> reason = Weights(in_.task.units.head);
    Stays("the head stays", reason ? reason : Activations(&ScratchUse::head));
  }

  // Those of a layer may go to any device.
  void Experts() {
    const Device& largest =
        **std::ranges::max_element(resources_.devices, {}, &Device::max_alloc_bytes);
    std::uint64_t expert = 0;
    bool any = false;
    for (const ExpertRef ref : in_.expert_order) {
      const auto layer = static_cast<std::size_t>(ref.layer);
      const auto id = static_cast<std::size_t>(ref.expert);
      expert = std::max(expert, in_.task.units.layers[layer].experts[id].device_bytes);
      any = any || plan_.layers[layer].experts[id].on_device();
    }
    if (expert > largest.max_alloc_bytes) {
      notes_.push_back(Text({"routed experts stay on the host: each", expert}, largest.name,
                            largest.max_alloc_bytes));
    } else if (!any && !in_.expert_order.empty()) {
      Stays("routed experts stay", Activations(&ScratchUse::experts));
    }
  }

  // The cache of experts lies in one buffer.
  void Cache() {
    const std::uint64_t wanted =
        std::min(in_.profile.expert_cache_bytes.value_or(0),
                 static_cast<std::uint64_t>(in_.cache.slots) * in_.cache.expert_bytes);
    if (wanted <= first_.max_alloc_bytes) return;
    notes_.push_back(
        Text({fmt::format("the expert cache has {} slots: what was asked for", plan_.cache.slots),
              wanted},
             first_.name, first_.max_alloc_bytes));
  }

  const PlanInput& in_;
  const Resources& resources_;
  const Plan& plan_;
  const Device& first_;
  std::vector<std::string> notes_;
};

}  // namespace

std::vector<std::string> BufferNotes(const PlanInput& input, const Resources& resources,
                                     const Plan& plan) {
  return Notes(input, resources, plan).Run();
}

}  // namespace tandem
