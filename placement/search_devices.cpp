#include "placement/search_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>

#include "memory/error.h"
#include "placement/buffer_notes.h"
#include "placement/byte_size.h"
#include "placement/deferral.h"
#include "placement/least_need.h"
#include "placement/profile_check.h"
#include "placement/resources.h"

namespace tandem {
namespace {

// One set of devices with what the search found for it.
struct Option {
  Option(const PlanInput& input, const DeviceSet& set)
      : resources(input, set), search(input, resources) {}
  Option(const Option&) = delete;
  Option& operator=(const Option&) = delete;

  Resources resources;
  Search search;
  Candidate found;
};
using Options = std::vector<std::unique_ptr<Option>>;

void CheckAbilities(const PlanTask& task, const Profile& profile) {
  const bool exact = task.options.precision == Precision::kExact;
  if (exact && profile.activation_type == DType::kBF16) {
    Throw<ConfigError>(
        "{}: 'activations.type': bf16 rounds, and --precision exact does not: change one",
        ProfileName(profile));
  }
  const bool rounds = !exact && profile.activation_type != DType::kF32;
  if (profile.f8_on_devices && !rounds) {
    Throw<ConfigError>("{}: 'activations.device': f8 rounds, and {} does not: change one",
                       ProfileName(profile),
                       exact ? "--precision exact" : "'activations.type': f32");
  }
  if (exact && profile.deferral) {
    Throw<ConfigError>(
        "{}: 'deferral': on changes results, and --precision exact does not: change one",
        ProfileName(profile));
  }
  const bool stream = profile.prefill_experts == Profile::PrefillExperts::kStream;
  if (stream && !task.options.abilities.stream_prefill) {
    Throw<ConfigError>(
        "{}: 'placement.prefill_experts': stream: this version runs cold experts on the CPU; set "
        "it to host or auto",
        ProfileName(profile));
  }
}

void CheckStream(const PlanInput& in, bool device) {
  const bool demanded = in.profile.prefill_experts == Profile::PrefillExperts::kStream;
  if (!demanded || in.task.config.n_routed_experts == 0) return;
  if (!device) {
    Throw<ConfigError>(
        "{}: 'placement.prefill_experts': stream needs an OpenCL device; {}",
        ProfileName(in.profile),
        in.profile.device == "none" ? "the device is 'none'" : FoundDevices(in.task.machine));
  }
  if (in.stream.expert_bytes > 0) return;
  Throw<ConfigError>(
      "{}: 'placement.prefill_experts': stream: experts stream in F32, BF16, F16 and F8_E4M3, and "
      "where activations may be rounded (not --precision exact, not activations.type f32) in Q8_0, "
      "Q4_0, Q5_0, MXFP4, Q4_K, Q5_K and Q6_K; set it to host or auto",
      ProfileName(in.profile));
}

void CheckCache(const PlanInput& in) {
  if (!in.profile.expert_cache_bytes) return;
  if (in.cache.expert_bytes == 0) {
    Throw<ConfigError>(
        "{}: 'placement.expert_cache': the model has no routed experts in formats that devices "
        "take; set it to off",
        ProfileName(in.profile));
  }
  if (*in.profile.expert_cache_bytes >= in.cache.expert_bytes) return;
  Throw<ConfigError>(
      "{}: 'placement.expert_cache': {} do not hold one expert of {}; raise it or "
      "set it to off",
      ProfileName(in.profile), FormatBytes(*in.profile.expert_cache_bytes),
      FormatBytes(in.cache.expert_bytes));
}

// The least rows of a step from which on the host's experts are faster streamed.
void SetStreamRows(const PlanInput& in, Plan& plan) {
  if (!plan.stream_prefill) return;
  Plan host = plan;
  host.stream_prefill = false;
  const auto faster = [&](std::int64_t rows) {
    const auto keys = static_cast<double>(rows) / 2;
    return in.task.cost.Step(plan, Phase::kPrefill, rows, keys, 1).seconds <
           in.task.cost.Step(host, Phase::kPrefill, rows, keys, 1).seconds;
  };
  plan.stream.rows = 2;
  while (plan.stream.rows < plan.max_rows && !faster(plan.stream.rows)) plan.stream.rows *= 2;
  plan.stream.rows = std::min(plan.stream.rows, plan.max_rows);
}

void CheckNoDemands(const PlanInput& in) {
  CheckNothingDemanded(in.profile, in.task.machine);
  if (!in.wants.demands_device) return;
  const std::string found =
      in.profile.device == "none" ? "the device is 'none'" : FoundDevices(in.task.machine);
  Throw<ConfigError>("{}: a rule asks for a device; {}", ProfileName(in.profile), found);
}

bool MayUseDevice(const PlanInput& in) {
  const auto free = [](const Want& want) { return want.side != Side::kHost; };
  const auto any = [&](const auto& list) { return std::ranges::any_of(list, free); };
  const bool experts_free =
      in.profile.experts == Profile::Experts::kAuto ? !in.expert_order.empty() : false;
  if (in.wants.demands_device || experts_free || free(in.wants.head)) return true;
  return std::ranges::any_of(in.wants.roles,
                             [&](const auto& roles) {
                               return free(roles[kAttention]) || free(roles[kDense]) ||
                                      free(roles[kShared]);
                             }) ||
         std::ranges::any_of(in.wants.experts, [&](const auto& list) {
           return in.profile.experts == Profile::Experts::kAuto && any(list);
         });
}

// What runs all but the experts comes first: the device that rules name for it, else the fastest.
void PutLeadFirst(const PlanInput& in, DeviceSet& set) {
  std::uint64_t named = in.wants.head.devices;
  for (const auto& roles : in.wants.roles) {
    for (const Want& want : roles) named |= want.devices;
  }
  const auto is_named = [&](const Device* device) {
    return (named >> (device - in.task.machine.devices.data()) & 1) != 0;
  };
  const auto lead = std::ranges::find_if(set, is_named);
  if (lead != set.end()) std::rotate(set.begin(), lead, lead + 1);
}

// Looks at every set briefly, and closely at the two best.
Option* BestSet(Options& options, Effort effort, bool must_use_device) {
  const Effort brief = std::min(effort, Effort::kPolicies);
  std::vector<Option*> order;
  for (const auto& option : options) {
    option->found = option->search.Run(brief, must_use_device);
    order.push_back(option.get());
  }
  const auto better = [](const Option* a, const Option* b) { return a->found.Better(b->found); };
  std::ranges::stable_sort(order, better);
  if (order.size() > 2) order.resize(2);
  if (effort == Effort::kFull) {
    for (Option* option : order) option->found = option->search.Run(effort, must_use_device);
  }
  return order.empty() ? nullptr : *std::ranges::min_element(order, better);
}

std::string Speeds(const Prediction& p) {
  return fmt::format("{:.1f} tokens/s in prefill and {:.2f} in decode", p.prefill_tokens_per_s,
                     p.decode_tokens_per_s);
}

std::string NothingFits(const PlanInput& in, Option& option) {
  const Filled filled = option.search.Plan(option.found.recipe);
  return fmt::format("nothing that may go there fits: {}",
                     LeastNeed(in, filled.plan, option.resources.budgets[0],
                               option.resources.devices[0]->max_alloc_bytes));
}

// Why a device that could be used is not.
std::string UnusedNote(const PlanInput& in, Option& with, const Prediction& without) {
  const std::string& name = with.resources.devices[0]->name;
  if (!MayUseDevice(in) && in.wants.host_only) {
    return fmt::format("{} is not used: it takes F32, BF16, F16 and F8_E4M3 weights only", name);
  }
  if (!MayUseDevice(in)) {
    return fmt::format("{} is not used: the profile places everything on the host", name);
  }
  if (!with.search.device_fits_something()) {
    return fmt::format("{} is not used: {}", name, NothingFits(in, with));
  }
  const Candidate* best = with.search.best_with_device();
  if (best == nullptr) return fmt::format("{} is not used: no plan with it fits", name);
  const Filled filled = with.search.Plan(best->recipe);
  return fmt::format("{} is not used, as it does not pay: predicted are {} with it, {} without",
                     name, Speeds(in.task.cost.Predict(filled.plan, in.workload)), Speeds(without));
}

Outcome Finish(const PlanInput& in, Option& option, std::vector<std::string> notes) {
  Filled filled = option.search.Plan(option.found.recipe);
  Outcome outcome;
  outcome.fits = filled.missing == 0;
  outcome.seconds = option.found.seconds;
  outcome.missing = filled.missing;
  outcome.node_missing = filled.node_missing;
  outcome.problem = std::move(filled.problem);
  outcome.plan = std::move(filled.plan);
  FillItems(in, outcome.plan);
  TANDEM_CHECK(outcome.plan.host_bytes == filled.host_bytes);
  for (std::size_t d = 0; d < filled.device_bytes.size(); ++d) {
    TANDEM_CHECK(outcome.plan.DeviceBytes(static_cast<int>(d)) == filled.device_bytes[d]);
  }
  outcome.plan.notes = std::move(notes);
  return outcome;
}

// What several devices do, and named ones that got nothing.
void NoteDevices(const Option& option, Plan& plan) {
  if (plan.devices.size() > 1) {
    plan.notes.push_back(fmt::format(
        "all but routed experts is on {}; further devices run experts, by way of the host",
        plan.devices[0].name));
  }
  for (const Device* device : option.resources.devices) {
    const bool used =
        std::ranges::find(plan.devices, device->index, &PlanDevice::index) != plan.devices.end();
    if (!used) plan.notes.push_back(fmt::format("{} is not used: it does not pay", device->name));
  }
}

void NoteDeferral(const Config& config, Plan& plan) {
  if (!plan.deferral || DeferredLayers(config, plan) > 0) return;
  plan.deferral = false;
  plan.notes.emplace_back(
      "deferral: on has no effect: no two MoE layers in a row pass between a device and the CPU");
}

void NoteF8(const PlanTask& task, Plan& plan) {
  if (!plan.f8_many_rows) return;
  const bool f8 = std::ranges::any_of(
      task.tensors.all(), [](const TensorInfo& t) { return t.dtype == DType::kF8E4M3; });
  if (f8 && !plan.devices.empty()) return;
  plan.f8_many_rows = false;
  plan.notes.push_back(
      fmt::format("activations.device: f8 has no effect: {}",
                  f8 ? "the plan uses no device" : "the model has no weights in F8_E4M3"));
}

}  // namespace

Outcome FindPlan(const PlanTask& task, const Profile& profile, Effort effort) {
  CheckAbilities(task, profile);
  const PlanInput in(task, profile);
  std::vector<std::string> notes;
  const DeviceChoice choice = ChooseDevices(task.machine, profile, task.options.abilities, notes);
  CheckStream(in, choice.some());
  CheckCache(in);
  if (!choice.some()) CheckNoDemands(in);
  const bool may_use = MayUseDevice(in);
  const bool must_use = in.wants.demands_device || (!choice.automatic && may_use);
  Options options;
  if (may_use) {
    for (DeviceSet set : choice.sets) {
      PutLeadFirst(in, set);
      options.push_back(std::make_unique<Option>(in, set));
    }
  }
  Option* with = BestSet(options, effort, must_use);
  Option host(in, {});
  const bool host_allowed = with == nullptr || !must_use;
  if (host_allowed) host.found = host.search.Run(effort, false);
  const bool use_device = with != nullptr && (!host_allowed || with->found.Better(host.found));
  Option& best = use_device ? *with : host;
  Outcome outcome = Finish(in, best, std::move(notes));
  if (use_device && must_use && !best.found.uses_device) {
    outcome.fits = false;
    outcome.missing = std::max(kNoSuchBuffer, outcome.missing);
    outcome.problem = fmt::format("{}: {}", best.resources.devices[0]->name, NothingFits(in, best));
  }
  if (!outcome.fits || effort == Effort::kFits) return outcome;
  SetStreamRows(in, outcome.plan);
  NoteDeferral(task.config, outcome.plan);
  NoteF8(task, outcome.plan);
  outcome.plan.prediction = task.cost.Predict(outcome.plan, in.workload);
  if (use_device) {
    NoteDevices(best, outcome.plan);
    std::ranges::move(BufferNotes(in, best.resources, outcome.plan),
                      std::back_inserter(outcome.plan.notes));
  }
  if (!use_device && with != nullptr) {
    outcome.plan.notes.push_back(UnusedNote(in, *with, outcome.plan.prediction));
  } else if (!may_use && choice.some()) {
    Option idle(in, choice.sets[0]);
    outcome.plan.notes.push_back(UnusedNote(in, idle, outcome.plan.prediction));
  }
  return outcome;
}

}  // namespace tandem
