#include "placement/plan_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "memory/error.h"
#include "memory/split_layout.h"
#include "placement/expert_sizes.h"
#include "placement/profile_check.h"
#include "placement/resources.h"

namespace tandem {
namespace {

// Rates of nodes and devices that the machine's do not cover are assumed: a machine file or a
// measurement may leave out a device that was added later.
Machine WithRates(Machine machine) {
  const Rates& have = machine.rates;
  const auto has_device = [&](const Device& d) {
    return std::ranges::find(have.devices, d.index, &DeviceRates::index) != have.devices.end();
  };
  const auto has_node = [&](const Node& n) {
    return std::ranges::find(have.host.nodes, n.os_index, &NodeRates::os_index) !=
           have.host.nodes.end();
  };
  const bool host = !have.host.teams.empty() && std::ranges::all_of(machine.nodes, has_node);
  if (host && std::ranges::all_of(machine.devices, has_device)) return machine;
  Rates assumed = AssumeRates(machine);
  if (!host) {
    machine.rates = std::move(assumed);
    return machine;
  }
  for (const Device& device : machine.devices) {
    if (has_device(device)) continue;
    const auto rates = std::ranges::find(assumed.devices, device.index, &DeviceRates::index);
    TANDEM_CHECK(rates != assumed.devices.end());
    machine.rates.devices.push_back(*rates);
  }
  return machine;
}

// Ids of a layer's experts by the profile's order, those not named after them.
std::vector<std::int32_t> NamedOrder(const Profile& profile, std::size_t experts) {
  std::vector<std::int32_t> order(profile.experts_order.begin(), profile.experts_order.end());
  std::vector<bool> named(experts);
  for (const std::int32_t id : order) named[static_cast<std::size_t>(id)] = true;
  for (std::size_t id = 0; id < experts; ++id) {
    if (!named[id]) order.push_back(static_cast<std::int32_t>(id));
  }
  return order;
}

bool OrdersByHeat(const Profile& profile, const PlanOptions& options) {
  using Policy = Profile::ExpertPolicy;
  if (profile.expert_policy != Policy::kAuto) return profile.expert_policy == Policy::kHot;
  return options.statistics != nullptr;
}

// Expected choices of an expert per byte on the device.
double Heat(const PlanTask& task, std::size_t layer, std::int32_t id) {
  const auto expert = static_cast<std::size_t>(id);
  const auto& shares = task.cost.Shares(Phase::kDecode, static_cast<std::int64_t>(layer));
  const std::uint64_t bytes = task.units.layers[layer].experts[expert].device_bytes;
  return shares[expert] / static_cast<double>(std::max<std::uint64_t>(1, bytes));
}

std::vector<std::vector<std::int32_t>> LayerOrders(const PlanTask& task, const Profile& profile) {
  std::vector<std::vector<std::int32_t>> orders(task.units.layers.size());
  for (std::size_t i = 0; i < orders.size(); ++i) {
    const std::size_t experts = task.units.layers[i].experts.size();
    if (experts == 0) continue;
    orders[i] = NamedOrder(profile, experts);
    if (!OrdersByHeat(profile, task.options)) continue;
    std::ranges::stable_sort(orders[i], [&](std::int32_t a, std::int32_t b) {
      return Heat(task, i, a) > Heat(task, i, b);
    });
  }
  return orders;
}

// Every layer's first expert, then every layer's second; with heat the hottest of all first.
std::vector<ExpertRef> ExpertOrder(const PlanInput& in) {
  std::vector<ExpertRef> order;
  const auto experts = static_cast<std::size_t>(in.task.config.n_routed_experts);
  for (std::size_t rank = 0; rank < experts; ++rank) {
    for (std::size_t i = 0; i < in.layer_order.size(); ++i) {
      if (in.layer_order[i].empty()) continue;
      const std::int32_t id = in.layer_order[i][rank];
      if (in.wants.experts[i][static_cast<std::size_t>(id)].side != Side::kAuto) continue;
      order.push_back({static_cast<std::int32_t>(i), id});
    }
  }
  if (!OrdersByHeat(in.profile, in.task.options)) return order;
  std::ranges::stable_sort(order, [&](ExpertRef a, ExpertRef b) {
    return Heat(in.task, static_cast<std::size_t>(a.layer), a.expert) >
           Heat(in.task, static_cast<std::size_t>(b.layer), b.expert);
  });
  return order;
}

// Powers of two up to the first that takes all prompts in one step; a step must hold one row of
// every sequence.
std::vector<std::int64_t> Chunks(const Profile& profile, const Workload& workload) {
  if (profile.chunk) return {*profile.chunk};
  const std::int64_t prompts = workload.sequences * workload.prompt_tokens;
  std::vector<std::int64_t> chunks;
  for (std::int64_t rows = 64; rows <= 4096; rows *= 2) {
    if (rows < profile.max_sequences) continue;
    chunks.push_back(rows);
    if (rows >= prompts) break;
  }
  if (chunks.empty()) chunks.push_back(profile.max_sequences);
  return chunks;
}

Want SideWant(Side side) { return {side, 0, 0}; }

// Attention runs where its cache is.
Side AttentionSide(const Profile& profile) {
  if (profile.kv_place == Side::kAuto) return profile.attention;
  if (profile.attention != Side::kAuto && profile.attention != profile.kv_place) {
    Throw<ConfigError>(
        "{}: 'kv.place' and 'placement.attention' name different sides: attention runs where its "
        "cache is; change one",
        ProfileName(profile));
  }
  return profile.kv_place;
}

bool InDeviceLayers(const Profile& profile, std::size_t layer) {
  if (!profile.device_layers) return true;
  const auto i = static_cast<std::int64_t>(layer);
  return i >= profile.device_layers->first && i <= profile.device_layers->second;
}

Wants WantsOfSides(const PlanTask& task, const Profile& profile) {
  Wants wants;
  wants.head = SideWant(profile.head);
  wants.roles.resize(task.units.layers.size());
  wants.experts.resize(task.units.layers.size());
  for (std::size_t i = 0; i < wants.roles.size(); ++i) {
    for (std::size_t r = 0; r < kLayerRoleCount; ++r) {
      Side side = r == kAttention ? AttentionSide(profile) : profile.*kLayerRoles[r].side;
      if (!InDeviceLayers(profile, i)) side = Side::kHost;
      wants.roles[i][r] = SideWant(side);
    }
    wants.experts[i].resize(task.units.layers[i].experts.size());
  }
  return wants;
}

// The role of a tensor as rules name it.
std::string_view RuleRole(const TensorInfo& tensor) {
  switch (tensor.role) {
    case Role::kHead:
      return "head";
    case Role::kDense:
      return "dense";
    case Role::kRouter:
      return "router";
    case Role::kShared:
      return "shared_experts";
    case Role::kRouted:
      return "routed_experts";
    case Role::kEmbedding:
      return "embedding";
    default:
      return "attention";
  }
}

bool InRanges(const std::vector<std::pair<int, int>>& ranges, int expert) {
  return std::ranges::any_of(
      ranges, [&](const auto& r) { return expert >= r.first && expert <= r.second; });
}

bool RuleMatches(const Rule& rule, const TensorInfo& tensor) {
  // The norm before the MLP has no will of its own: it goes where that begins.
  if (tensor.role == Role::kMtp || tensor.part == Part::kPostNorm) return false;
  if (!rule.role.empty() && rule.role != RuleRole(tensor)) return false;
  if (rule.layers && (tensor.layer < rule.layers->first || tensor.layer > rule.layers->second)) {
    return false;
  }
  if (!rule.experts.empty() && (tensor.expert < 0 || !InRanges(rule.experts, tensor.expert))) {
    return false;
  }
  return rule.tensors.empty() || GlobMatches(rule.tensors, tensor.name);
}

Want& WantOf(const TensorInfo& tensor, Wants& wants) {
  if (tensor.role == Role::kHead) return wants.head;
  const auto layer = static_cast<std::size_t>(tensor.layer);
  switch (tensor.role) {
    case Role::kDense:
      return wants.roles[layer][kDense];
    case Role::kRouter:
      return wants.roles[layer][kRouter];
    case Role::kShared:
      return wants.roles[layer][kShared];
    case Role::kRouted:
      return wants.experts[layer][static_cast<std::size_t>(tensor.expert)];
    default:
      return wants.roles[layer][kAttention];
  }
}

std::string RuleName(const Profile& profile, const Rule& rule) {
  return rule.line > 0 ? fmt::format("{}:{}", ProfileName(profile), rule.line)
                       : fmt::format("{}: a rule", ProfileName(profile));
}

std::uint64_t DeviceMask(const Machine& machine, const Rule& rule) {
  if (rule.device.empty() || rule.device == "auto") return 0;
  std::uint64_t mask = 0;
  for (const Device* device : FindDevices(machine, rule.device)) {
    mask |= std::uint64_t{1} << (device - machine.devices.data());
  }
  return mask;
}

// A rule goes before a role's side; a later rule before an earlier one, as a narrower rule is
// written after the wider one that it excepts from.
void ApplyRule(const PlanTask& task, const Profile& profile, const Rule& rule, Wants& wants) {
  const Want want{rule.place, rule.place == Side::kDevice ? DeviceMask(task.machine, rule) : 0,
                  std::max(1, rule.line)};
  bool any = false;
  for (const TensorInfo& tensor : task.tensors.all()) {
    if (!RuleMatches(rule, tensor)) continue;
    any = true;
    if (tensor.role != Role::kEmbedding) {
      WantOf(tensor, wants) = want;
    } else if (rule.place == Side::kDevice && !rule.tensors.empty()) {
      Throw<ConfigError>("{}: {} is always on the host: a step reads single rows of it",
                         RuleName(profile, rule), tensor.name);
    }
  }
  if (!any) Throw<ConfigError>("{}: matches nothing of this model", RuleName(profile, rule));
}

// What no device kernel takes: some block formats, and experts of one layer that differ in theirs.
bool OnlyOnHost(const TensorInfo& tensor, const std::vector<ExpertFormats>& experts) {
  const bool mixed =
      tensor.role == Role::kRouted && experts[static_cast<std::size_t>(tensor.layer)].mixed;
  return !IsDeviceFormat(tensor.dtype) || mixed;
}

bool IsMatrix(const TensorInfo& tensor) { return tensor.shape.size() == 2; }

// What the profile leaves open goes to the host; what it puts on a device is refused.
void KeepOnHost(const PlanTask& task, const Profile& profile, Wants& wants) {
  using Experts = Profile::Experts;
  const auto formats = FormatsOfExperts(task.tensors, wants.roles.size());
  for (const TensorInfo& tensor : task.tensors.all()) {
    const bool placed = tensor.role != Role::kMtp && tensor.role != Role::kEmbedding;
    if (!placed || !IsMatrix(tensor) || !OnlyOnHost(tensor, formats)) continue;
    Want& want = WantOf(tensor, wants);
    const bool some_experts = (profile.experts == Experts::kShare && profile.experts_share > 0) ||
                              (profile.experts == Experts::kBytes && profile.experts_bytes > 0);
    const bool demanded =
        want.side == Side::kDevice || (tensor.role == Role::kRouted && some_experts);
    if (demanded) {
      Throw<ConfigError>(
          "{}: {} is {}{}; a device takes F32, BF16, F16, F8_E4M3, Q8_0, Q4_0, Q5_0, MXFP4, Q4_K, "
          "Q5_K and Q6_K, the same for all experts of a layer: leave its {} to the host, or load "
          "the model in one of these formats",
          ProfileName(profile), tensor.name, Name(tensor.dtype),
          IsDeviceFormat(tensor.dtype) ? ", other experts of its layer are not" : "",
          Name(tensor.role));
    }
    want.side = Side::kHost;
    wants.host_only = true;
  }
}

// Nor for a KV cache in q8_0: attention stays with it.
void KeepCacheOnHost(const Profile& profile, Wants& wants) {
  if (profile.kv_type != DType::kQ8_0) return;
  for (auto& roles : wants.roles) {
    if (roles[kAttention].side == Side::kDevice) {
      Throw<ConfigError>(
          "{}: 'kv.type' q8_0 is for attention on the host, and a layer's is on a device: leave it "
          "to the host, or use f8, f16, bf16 or f32",
          ProfileName(profile));
    }
    roles[kAttention].side = Side::kHost;
  }
}

bool DemandsDevice(const Profile& profile, const Wants& wants) {
  using Experts = Profile::Experts;
  const auto device = [](const Want& want) { return want.side == Side::kDevice; };
  const auto any = [&](const auto& list) { return std::ranges::any_of(list, device); };
  return device(wants.head) || std::ranges::any_of(wants.roles, any) ||
         std::ranges::any_of(wants.experts, any) ||
         (profile.experts == Experts::kShare && profile.experts_share > 0) ||
         (profile.experts == Experts::kBytes && profile.experts_bytes > 0);
}

}  // namespace

bool GlobMatches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0;
  std::size_t star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t]) && pattern[p] != '*') {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;  // the star takes one letter more
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

Wants ResolveWants(const PlanTask& task, const Profile& profile) {
  Wants wants = WantsOfSides(task, profile);
  for (const Rule& rule : profile.rules) ApplyRule(task, profile, rule, wants);
  KeepOnHost(task, profile, wants);
  KeepCacheOnHost(profile, wants);
  wants.demands_device = DemandsDevice(profile, wants);
  return wants;
}

Workload WorkloadOf(const Profile& profile) {
  Workload workload;
  workload.sequences = profile.use == Use::kBatch ? profile.max_sequences : 1;
  const std::int64_t room = std::max<std::int64_t>(2, profile.context / workload.sequences);
  workload.answer_tokens = std::min(profile.answer_tokens, room / 2);
  workload.prompt_tokens =
      std::max<std::int64_t>(1, std::min(profile.prompt_tokens, room - workload.answer_tokens));
  return workload;
}

PlanTask::PlanTask(const Config& model_config, const TensorList& model_tensors,
                   const Machine& plan_machine, const PlanOptions& plan_options)
    : config(model_config),
      tensors(model_tensors),
      machine(WithRates(plan_machine)),
      options(plan_options),
      units(MeasureModel(model_config, model_tensors)),
      cost(config, tensors, machine, options.statistics) {}

PlanInput::PlanInput(const PlanTask& plan_task, const Profile& plan_profile)
    : task(plan_task),
      profile(plan_profile),
      wants(ResolveWants(plan_task, plan_profile)),
      workload(WorkloadOf(plan_profile)),
      kv_type(KvType(plan_profile, plan_task.options.precision)),
      kv_blocks(KvBlockCount(plan_profile.context, plan_profile.max_sequences)),
      kv_layer_bytes(KvLayerBytes(plan_task.config, kv_blocks, kv_type)),
      host_budget(HostBudget(plan_task.machine, plan_profile)),
      chunks(Chunks(plan_profile, workload)) {
  const ExpertSizes sizes = SizesOfExperts(task.tensors, task.units.layers.size());
  stream = StreamOf(
      sizes, task.options.precision == Precision::kFast && profile.activation_type != DType::kF32);
  cache = CacheOf(sizes);
  layer_order = LayerOrders(task, profile);
  expert_order = ExpertOrder(*this);
}

std::uint64_t PlanInput::KvBuffer(std::uint64_t max_bytes) const {
  const std::int64_t blocks = KvBuffersOf(task.config, kv_blocks, kv_type, max_bytes).blocks;
  return KvLayerBytes(task.config, blocks, kv_type);
}

}  // namespace tandem
