#include "placement/fill_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/profile_check.h"
#include "placement/scratch.h"
#include "placement/start_plan.h"
#include "placement/step_feed_shape.h"
#include "placement/sum_plan.h"

namespace tandem {
namespace {

constexpr std::array<unsigned, kLayerRoleCount> kScratchOf{kScratchAttention, kScratchMlp,
                                                           kScratchRouter, kScratchMlp};

// One thing to place.
struct Piece {
  Place& place;
  const Unit& unit;
  std::uint64_t extra = 0;  // beside its weights: the KV cache goes with attention
  unsigned scratch = 0;
  const char* key = "";
  bool expert = false;
};

class Filler {
 public:
  Filler(const PlanInput& in, const Resources& resources, const Recipe& recipe,
         ScratchSizes& scratch)
      : in_(in), resources_(resources), recipe_(recipe), scratch_(scratch) {
    Plan& plan = filled_.plan;
    plan = StartPlan(in, resources, recipe);
    filled_.device_bytes.resize(plan.devices.size());
    roles_.resize(plan.devices.size());
  }

  Filled Run() {
    if (!filled_.plan.devices.empty()) {
      if (filled_.plan.cache.slots > 0) TakeCache();
      PlaceDemands();
      if (recipe_.experts_first) OfferExperts();
      for (std::size_t r = 0; r < kLayerRoleCount; ++r) OfferRole(r);
      if (recipe_.head && in_.wants.head.side == Side::kAuto) Offer(Head(), 0);
      if (!recipe_.experts_first) OfferExperts();
      DropUnusedDevices();
      TakeFeed();
    }
    SumUp(in_, scratch_, filled_);
    return std::move(filled_);
  }

 private:
  void TakeCache() {
    filled_.device_bytes[0] += NewScratch(0, kScratchCache);
    roles_[0] |= RolesOn(0, kScratchCache);
    filled_.uses_device = true;
  }

  Piece RolePiece(std::size_t layer, std::size_t role) {
    return {filled_.plan.layers[layer].*kLayerRoles[role].place,
            in_.task.units.layers[layer].*kLayerRoles[role].unit,
            role == kAttention ? in_.kv_layer_bytes : 0, kScratchOf[role], kLayerRoles[role].key};
  }
  Piece ExpertPiece(std::size_t layer, std::size_t id) {
    return {filled_.plan.layers[layer].experts[id],
            in_.task.units.layers[layer].experts[id],
            0,
            kScratchExperts,
            "routed_experts",
            true};
  }
  Piece Head() { return {filled_.plan.head, in_.task.units.head, 0, kScratchHead, "head"}; }

  // The device that a layer's experts are meant for. All else goes to the first: what others hold
  // passes through the host in every layer, which pays for experts alone.
  std::size_t Home(std::size_t layer) const {
    std::size_t home = 0;
    for (const std::int64_t first : recipe_.homes) {
      home += static_cast<std::int64_t>(layer) >= first ? 1 : 0;
    }
    return std::min(home, resources_.devices.size() - 1);
  }

  void PlaceDemands() {
    for (std::size_t r = 0; r < kLayerRoleCount; ++r) {
      for (std::size_t i = 0; i < in_.wants.roles.size(); ++i) {
        if (in_.wants.roles[i][r].side == Side::kDevice) {
          Demand(RolePiece(i, r), 0, in_.wants.roles[i][r]);
        }
      }
    }
    if (in_.wants.head.side == Side::kDevice) Demand(Head(), 0, in_.wants.head);
    DemandExperts();
  }

  void DemandExperts() {
    for (std::size_t i = 0; i < in_.wants.experts.size(); ++i) {
      std::int64_t demanded = 0;
      for (std::size_t e = 0; e < in_.wants.experts[i].size(); ++e) {
        if (in_.wants.experts[i][e].side != Side::kDevice) continue;
        Demand(ExpertPiece(i, e), Home(i), in_.wants.experts[i][e]);
        ++demanded;
      }
      if (in_.profile.experts == Profile::Experts::kShare) DemandShare(i, demanded);
    }
    if (in_.profile.experts == Profile::Experts::kBytes) DemandBytes();
  }

  // A share above zero means at least one expert.
  std::int64_t SharedCount() const {
    const auto all = static_cast<double>(in_.task.config.n_routed_experts);
    const auto count = static_cast<std::int64_t>(std::llround(in_.profile.experts_share * all));
    return in_.profile.experts_share > 0 ? std::max<std::int64_t>(count, 1) : 0;
  }

  void DemandShare(std::size_t layer, std::int64_t demanded) {
    std::int64_t left = SharedCount() - demanded;
    for (const std::int32_t id : in_.layer_order[layer]) {
      const auto expert = static_cast<std::size_t>(id);
      if (left <= 0) return;
      if (in_.wants.experts[layer][expert].side != Side::kAuto) continue;
      Demand(ExpertPiece(layer, expert), Home(layer), {});
      --left;
    }
  }

  void DemandBytes() {
    std::uint64_t left = in_.profile.experts_bytes;
    for (const ExpertRef ref : in_.expert_order) {
      const auto layer = static_cast<std::size_t>(ref.layer);
      const Piece piece = ExpertPiece(layer, static_cast<std::size_t>(ref.expert));
      if (piece.unit.device_bytes > left) return;
      left -= piece.unit.device_bytes;
      Demand(piece, Home(layer), {});
    }
  }

  // Layer by layer, up to the first that does not fit: the work on one side stays together.
  void OfferRole(std::size_t role) {
    std::int64_t left = recipe_.layers[role];
    for (std::size_t i = 0; i < in_.wants.roles.size() && left > 0; ++i) {
      if (in_.wants.roles[i][role].side != Side::kAuto) continue;
      const Piece piece = RolePiece(i, role);
      if (piece.unit.tensors == 0) continue;
      if (role == kRouter && !filled_.plan.layers[i].attention.on_device()) continue;
      if (!Offer(piece, 0)) return;
      --left;
    }
  }

  void OfferExperts() {
    if (in_.profile.experts != Profile::Experts::kAuto) return;
    const auto count = std::min(static_cast<std::size_t>(recipe_.experts), in_.expert_order.size());
    for (std::size_t k = 0; k < count; ++k) {
      const ExpertRef ref = in_.expert_order[k];
      const auto layer = static_cast<std::size_t>(ref.layer);
      if (!Offer(ExpertPiece(layer, static_cast<std::size_t>(ref.expert)), Home(layer))) return;
      ++filled_.placed_experts;
    }
  }

  static unsigned RolesOn(std::size_t device, unsigned roles) {
    return device == 0 ? roles | kScratchFirst : roles;
  }

  // Devices that a piece may go to, from the first on.
  std::size_t Candidates(const Piece& piece) const {
    return piece.expert ? resources_.devices.size() : 1;
  }

  std::uint64_t NewScratch(std::size_t device, unsigned role) {
    role = RolesOn(device, role);
    if ((roles_[device] & role) == role) return 0;
    const std::uint64_t with = scratch_.Device(filled_.plan, roles_[device] | role).bytes;
    const std::uint64_t without =
        roles_[device] == 0 ? 0 : scratch_.Device(filled_.plan, roles_[device]).bytes;
    return with - without;
  }

  // The largest range that must lie in one buffer: of its KV cache, and of all.
  std::uint64_t KvBuffer(const Piece& piece, std::size_t device) const {
    return piece.extra == 0 ? 0 : in_.KvBuffer(resources_.devices[device]->max_alloc_bytes);
  }
  std::uint64_t Buffer(const Piece& piece, std::size_t device) const {
    return std::max(piece.expert ? piece.unit.device_bytes : piece.unit.least_buffer,
                    KvBuffer(piece, device));
  }

  bool BuffersFit(const Piece& piece, std::size_t device) {
    const std::uint64_t most = resources_.devices[device]->max_alloc_bytes;
    return Buffer(piece, device) <= most &&
           ((roles_[device] & piece.scratch) == piece.scratch ||
            scratch_.Device(filled_.plan, roles_[device] | RolesOn(device, piece.scratch))
                    .largest <= most);
  }

  std::uint64_t Bytes(const Piece& piece, std::size_t device) const {
    return piece.unit.DeviceBytes(resources_.devices[device]->max_alloc_bytes) + piece.extra;
  }

  bool HasRoom(const Piece& piece, std::size_t device) {
    const std::uint64_t used = filled_.device_bytes[device];
    const std::uint64_t bytes = Bytes(piece, device) + NewScratch(device, piece.scratch);
    return used <= resources_.budgets[device] && bytes <= resources_.budgets[device] - used;
  }

  bool Offer(const Piece& piece, std::size_t home) {
    if (piece.unit.tensors == 0) return true;
    for (std::size_t k = 0; k < Candidates(piece); ++k) {
      const std::size_t device = k == 0 ? home : k - 1 < home ? k - 1 : k;
      if (!HasRoom(piece, device) || !BuffersFit(piece, device)) continue;
      Put(piece, device);
      return true;
    }
    return false;
  }

  bool Allowed(const Want& want, std::size_t device) const {
    if (want.devices == 0) return true;
    const auto at = resources_.devices[device] - in_.task.machine.devices.data();
    return (want.devices >> at & 1) != 0;
  }

  bool AllowedAnywhere(const Want& want) const {
    for (std::size_t d = 0; d < resources_.devices.size(); ++d) {
      if (Allowed(want, d)) return true;
    }
    return false;
  }

  // On its home, else where there is room, else on its home all the same: the sums tell.
  void Demand(const Piece& piece, std::size_t home, const Want& want) {
    if (piece.unit.tensors == 0) return;
    std::optional<std::size_t> chosen;
    for (std::size_t k = 0; k < Candidates(piece); ++k) {
      const std::size_t device = k == 0 ? home : k - 1 < home ? k - 1 : k;
      if (!Allowed(want, device)) continue;
      const bool good = HasRoom(piece, device) && BuffersFit(piece, device);
      if (!chosen || good) chosen = device;
      if (good) break;
    }
    if (!chosen && AllowedAnywhere(want)) {
      Throw<ConfigError>(
          "{}:{}: the rule puts {} on another device than '{}'; all but routed experts runs on one "
          "device: name the same one in all rules for it",
          in_.profile.file.empty() ? "profile" : in_.profile.file, want.line, piece.key,
          resources_.devices[0]->name);
    }
    if (!chosen) {
      Throw<ConfigError>("{}:{}: the rule names a device that this plan does not use: see 'device'",
                         in_.profile.file.empty() ? "profile" : in_.profile.file, want.line);
    }
    if (!BuffersFit(piece, *chosen)) NoteBuffers(piece, *chosen);
    Put(piece, *chosen);
  }

  void NoteBuffers(const Piece& piece, std::size_t device) {
    if (!filled_.problem.empty()) return;
    const Device& owner = *resources_.devices[device];
    const std::string most = FormatBytes(owner.max_alloc_bytes);
    if (Buffer(piece, device) <= owner.max_alloc_bytes) {
      NoteScratch(filled_.plan.devices[device], roles_[device] | RolesOn(device, piece.scratch),
                  piece.key);
      return;
    }
    const bool kv = KvBuffer(piece, device) > owner.max_alloc_bytes;
    filled_.problem =
        fmt::format("{}: {} needs {} in one buffer, the device allows {}; {}", owner.name,
                    kv ? "a layer's KV cache" : piece.unit.least->name,
                    FormatBytes(Buffer(piece, device)), most,
                    kv ? std::string("lower workload.context, choose a smaller kv.type, or set "
                                     "placement.attention to host")
                       : fmt::format("set placement.{} to host", piece.key));
  }

  void Put(const Piece& piece, std::size_t device) {
    filled_.device_bytes[device] += Bytes(piece, device) + NewScratch(device, piece.scratch);
    roles_[device] |= RolesOn(device, piece.scratch);
    piece.place = Place::Device(static_cast<int>(device));
    filled_.uses_device = true;
  }

  // A device with nothing on it is not opened; the others close up.
  void DropUnusedDevices() {
    std::vector<int> index(roles_.size(), -1);
    int kept = 0;
    for (std::size_t d = 0; d < roles_.size(); ++d) {
      if (roles_[d] != 0) index[d] = kept++;
    }
    if (kept == static_cast<int>(roles_.size())) return;
    Plan& plan = filled_.plan;
    const auto renumber = [&](Place& place) {
      if (place.on_device()) place.index = index[static_cast<std::size_t>(place.index)];
    };
    renumber(plan.head);
    for (LayerPlan& layer : plan.layers) {
      for (const LayerRole& role : kLayerRoles) renumber(layer.*role.place);
      std::ranges::for_each(layer.experts, renumber);
    }
    for (std::size_t d = roles_.size(); d-- > 0;) {
      if (index[d] >= 0) continue;
      const auto at = static_cast<std::ptrdiff_t>(d);
      plan.devices.erase(plan.devices.begin() + at);
      filled_.device_bytes.erase(filled_.device_bytes.begin() + at);
      roles_.erase(roles_.begin() + at);
    }
    if (index[0] < 0 && kept > 0) MakeFirst();
  }

  // Whether steps are enqueued ahead is known when everything has its place.
  void TakeFeed() {
    if (!StepsAhead(filled_.plan)) return;
    filled_.device_bytes[0] += NewScratch(0, kScratchFeed);
    roles_[0] |= kScratchFeed;
  }

  // The first device needs more than it did as a further one.
  void MakeFirst() {
    const ScratchSize before = scratch_.Device(filled_.plan, roles_[0]);
    roles_[0] |= kScratchFirst;
    const ScratchSize after = scratch_.Device(filled_.plan, roles_[0]);
    filled_.device_bytes[0] += after.bytes - before.bytes;
    const PlanDevice& device = filled_.plan.devices[0];
    if (after.largest > device.max_alloc_bytes && filled_.problem.empty()) {
      NoteScratch(device, roles_[0], "routed_experts");
    }
  }

  // Fewer rows help unless those of the smallest step need as much.
  void NoteScratch(const PlanDevice& device, unsigned roles, const char* key) {
    const ScratchSize size = scratch_.Device(filled_.plan, roles);
    Plan least = filled_.plan;
    least.max_rows = 1;
    const bool fewer_help = scratch_.Device(least, roles).largest <= device.max_alloc_bytes;
    const bool streams = std::string_view(size.name).starts_with("stream");
    filled_.problem = fmt::format(
        "{}: a step of {} rows needs {} in one buffer, the device allows {} ('{}'); {}",
        device.name, filled_.plan.max_rows, FormatBytes(size.largest),
        FormatBytes(device.max_alloc_bytes), size.name,
        fewer_help ? "lower workload.chunk"
                   : fmt::format("set placement.{} to host", streams ? "prefill_experts" : key));
  }

  const PlanInput& in_;
  const Resources& resources_;
  const Recipe& recipe_;
  ScratchSizes& scratch_;
  Filled filled_;
  std::vector<unsigned> roles_;  // of each device
};

}  // namespace

Filled Fill(const PlanInput& input, const Resources& resources, const Recipe& recipe,
            ScratchSizes& scratch) {
  return Filler(input, resources, recipe, scratch).Run();
}

}  // namespace tandem
