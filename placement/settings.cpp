#include "placement/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "placement/profile_check.h"
#include "placement/setting_forms.h"

namespace tandem {
namespace {

using namespace setting;  // NOLINT: the forms

constexpr std::array<std::string_view, 3> kSideWords{"auto", "host", "device"};
constexpr std::array<std::string_view, 3> kPolicyWords{"auto", "hot", "order"};
constexpr std::array<std::string_view, 3> kPrefillWords{"auto", "host", "stream"};
constexpr std::array<std::string_view, 3> kHandOverWords{"auto", "polled", "events"};
constexpr std::array<std::string_view, 3> kStreamWords{"auto", "locked", "ring"};
constexpr std::array<std::string_view, 3> kStepAheadWords{"auto", "on", "off"};
constexpr std::array<std::string_view, 2> kSwitchWords{"off", "on"};
constexpr std::array<std::string_view, 2> kDeviceActivationWords{"auto", "f8"};
constexpr std::string_view kAnyWord = "any";

template <class Form>
constexpr Setting Make(std::string_view path, std::string_view values, std::string_view help,
                       Tie tie = Tie::kNothing) {
  Setting setting{path, values, help, Form::Read, Form::Print, Form::Schema};
  setting.tie = tie;
  return setting;
}

template <auto kMember>
constexpr Setting MakeSide(std::string_view path, std::string_view help) {
  return Make<OneOf<kMember, kSideWords>>(path, "auto|host|device", help, Tie::kBoth);
}

constexpr Setting Alias(Setting setting, std::string_view flag) {
  setting.alias = flag;
  return setting;
}

constexpr Setting Joined(Setting setting, Join join) {
  setting.join = join;
  return setting;
}

constexpr Setting FileOnly(Setting setting) {
  setting.file_only = true;
  return setting;
}

using P = Profile;
using L = ProfileLimits;

constexpr std::array kSettings{
    Make<DeviceForm>("device", "auto|none|all|INDEX|NAME[,..]",
                     "OpenCL devices: a number of `tandem devices` or a part of a name",
                     Tie::kMachine),
    Make<SizeOrAuto<&P::device_memory_bytes>>("memory.device", "SIZE|auto", "budget on each device",
                                              Tie::kMachine),
    Make<SizeOrAuto<&P::host_memory_bytes>>("memory.host", "SIZE|auto", "budget in main memory",
                                            Tie::kMachine),
    Joined(Make<DeviceBudgetsForm>("memory.devices", "MAP",
                                   "budget or reserve of single devices: {0: {reserve: 2 GiB}}",
                                   Tie::kMachine),
           Join::kByKey),
    Joined(
        Make<NodeBudgetsForm>("memory.nodes", "MAP",
                              "budget or reserve of single NUMA nodes: {0: 96 GiB}", Tie::kMachine),
        Join::kByKey),
    Joined(Make<ThreadsForm>("threads", "N|MAP|auto", "CPU threads, or those of each node: {0: 16}",
                             Tie::kMachine),
           Join::kByKey),
    Make<WholeOrAuto<&P::device_threads, 1, L::kThreads>>(
        "device_threads", "N|auto", "threads of a device that computes on the same cores",
        Tie::kMachine),
    Make<OneOf<&P::hand_over, kHandOverWords>>(
        "hand_over", "auto|polled|events",
        "how a layer with experts on both sides passes between a device and the CPU",
        Tie::kMachine),
    Make<OneOf<&P::deferral, kSwitchWords>>(
        "deferral", "off|on",
        "add the CPU's sum of a layer one layer late: changes results, says by how much"),
    Make<OneOf<&P::step_ahead, kStepAheadWords>>(
        "step_ahead", "auto|on|off",
        "enqueue a decode step while one runs, where all but experts is on one device",
        Tie::kMachine),

    Alias(Make<UseForm>("workload.for", "any|chat|agent|long|batch",
                        "a workload by its name, for what is not said below"),
          "--for"),
    Alias(Make<Whole<&P::context, 1, L::kContext>>("workload.context", "N",
                                                   "tokens of KV cache, over all sequences"),
          "--ctx"),
    Make<Whole<&P::least_context, 1, L::kContext>>("workload.least_context", "N",
                                                   "plans offered instead never hold less"),
    Make<Whole<&P::max_sequences, 1, L::kSequences>>("workload.sequences", "N",
                                                     "sequences at the same time"),
    Make<Whole<&P::prompt_tokens, 1, L::kContext>>("workload.prompt_tokens", "N",
                                                   "of one request, for choices and predictions"),
    Make<Whole<&P::answer_tokens, 1, L::kContext>>("workload.answer_tokens", "N",
                                                   "of one request, for choices and predictions"),
    Alias(Make<WholeOrAuto<&P::chunk, 1, L::kChunk>>(
              "workload.chunk", "N|auto", "most tokens of one step, in prefill", Tie::kBoth),
          "--chunk"),

    Make<ActivationsForm>("activations.type", "auto|f32|bf16",
                          "what CPU kernels may round activations to in fast runs", Tie::kMachine),
    Make<OneOf<&P::f8_on_devices, kDeviceActivationWords>>(
        "activations.device", "auto|f8",
        "f8: devices round many rows to FP8 where weights are FP8: changes results"),
    Make<KvTypeForm>("kv.type", "auto|f32|bf16|f16|q8_0|f8", "number format of the KV cache"),
    MakeSide<&P::kv_place>("kv.place", "KV cache, with attention"),

    MakeSide<&P::attention>("placement.attention", "attention with the layer's norms"),
    MakeSide<&P::dense>("placement.dense", "MLPs of dense layers"),
    MakeSide<&P::shared_experts>("placement.shared_experts", "shared experts"),
    MakeSide<&P::router>("placement.router", "routers"),
    MakeSide<&P::head>("placement.head", "final norm and lm_head"),
    Make<RoutedExpertsForm>("placement.routed_experts", "auto|host|device|MAP",
                            "routed experts: {share: 0.25} or {bytes: 6 GiB} on the device",
                            Tie::kBoth),
    Make<OneOf<&P::expert_policy, kPolicyWords>>(
        "placement.experts.policy", "auto|hot|order",
        "experts on the device: by statistics, or the same ids in every layer", Tie::kModel),
    Make<StatisticsForm>("placement.experts.statistics", "FILE|none", "of `tandem calibrate`",
                         Tie::kModel),
    Make<ExpertsOrderForm>("placement.experts_order", "LIST", "ids, hottest first: [7, 0, 12]",
                           Tie::kModel),
    Make<LayersForm>("placement.layers", "LIST|all",
                     "[first, last] whose attention, dense, router and shared may leave the host",
                     Tie::kBoth),
    Make<OneOf<&P::prefill_experts, kPrefillWords>>(
        "placement.prefill_experts", "auto|host|stream",
        "experts of the host in prefill: computed there, or copied to the device", Tie::kBoth),
    Make<OneOf<&P::stream_memory, kStreamWords>>(
        "placement.stream_memory", "auto|locked|ring",
        "streamed experts: from where they lie, locked in memory, or by a pinned ring",
        Tie::kMachine),
    Make<SizeOrOff<&P::expert_cache_bytes>>(
        "placement.expert_cache", "SIZE|off",
        "memory of the first device for experts of the host that are used much", Tie::kBoth),
    Joined(Make<RulesForm>("rules", "LIST",
                           "constraints: [{role: head, place: host}]; see profiles/README.md",
                           Tie::kBoth),
           Join::kAppend),
    FileOnly(Make<TextOr<&P::machine_fingerprint, kAnyWord>>(
        "made_for.machine", "FINGERPRINT|any", "the machine that it was tuned on", Tie::kMachine)),
    FileOnly(Make<TextOr<&P::model_fingerprint, kAnyWord>>(
        "made_for.model", "FINGERPRINT|any", "the model that it was tuned with", Tie::kModel)),
};

std::string Spelled(std::string_view path, char separator, bool upper) {
  std::string out;
  for (const char c : path) {
    const bool mark = c == '.' || c == '_';
    out += mark ? separator : static_cast<char>(upper ? std::toupper(c) : c);
  }
  return out;
}

}  // namespace

std::span<const Setting> Settings() { return kSettings; }

const Setting* FindSetting(std::string_view path) {
  const auto found = std::ranges::find(kSettings, path, &Setting::path);
  return found == kSettings.end() ? nullptr : &*found;
}

std::string FlagOf(const Setting& setting) { return "--" + Spelled(setting.path, '-', false); }

std::string VariableOf(const Setting& setting) {
  return "TANDEM_" + Spelled(setting.path, '_', true);
}

std::vector<std::string_view> NamesBelow(std::string_view section) {
  std::vector<std::string_view> names;
  const std::size_t start = section.empty() ? 0 : section.size() + 1;
  for (const Setting& setting : kSettings) {
    const std::string_view path = setting.path;
    const bool below = section.empty() ||
                       (path.size() > start && path.starts_with(section) && path[start - 1] == '.');
    if (!below) continue;
    const std::string_view name = path.substr(start, path.find('.', start) - start);
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return names;
}

void Copy(const Setting& setting, const Profile& from, Profile& to) {
  const std::string key(setting.path);
  to.origins.erase(key);
  if (const auto origin = from.origins.find(key); origin != from.origins.end()) {
    to.origins.insert(*origin);
  }
  setting.read({setting.print(from), key}, to);
}

void Reset(const Setting& setting, Profile& profile) { Copy(setting, Profile{}, profile); }

bool IsDefault(const Setting& setting, const Profile& profile) {
  return FlowText(setting.print(profile)) == FlowText(setting.print(Profile{}));
}

}  // namespace tandem
