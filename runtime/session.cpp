#include "runtime/session.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "model/open_model.h"
#include "model/quantized_model.h"
#include "placement/machine_file.h"
#include "placement/nearest.h"
#include "placement/planner.h"
#include "placement/settings.h"
#include "runtime/abilities.h"

namespace tandem {
namespace {

// A misspelt TANDEM_WORKLOAD_CONTXT would otherwise do nothing, quietly.
void CheckVariable(std::string_view name) {
  constexpr std::array<std::string_view, 6> kSections{"TANDEM_MEMORY_",      "TANDEM_WORKLOAD_",
                                                      "TANDEM_ACTIVATIONS_", "TANDEM_KV_",
                                                      "TANDEM_PLACEMENT_",   "TANDEM_MADE_FOR_"};
  const bool ours = std::ranges::any_of(
      kSections, [&](std::string_view section) { return name.starts_with(section); });
  if (!ours) return;
  std::vector<std::string> known;
  for (const Setting& setting : Settings()) {
    if (!setting.file_only) known.push_back(VariableOf(setting));
  }
  if (std::ranges::find(known, name) != known.end()) return;
  const std::vector<std::string_view> views(known.begin(), known.end());
  const std::string nearest = NearestKey(name, views);
  Throw<ConfigError>("{}: unknown variable ({})", name,
                     nearest.empty() ? "`tandem config show --origin` lists the settings"
                                     : fmt::format("did you mean {}?", nearest));
}

void CheckVariables() {
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    CheckVariable(text.substr(0, text.find('=')));
  }
}

// What the environment says; a variable that is set to nothing says nothing.
std::vector<GivenSetting> Variables() {
  CheckVariables();
  std::vector<GivenSetting> given;
  for (const Setting& setting : Settings()) {
    if (setting.file_only) continue;
    const std::string name = VariableOf(setting);
    const char* text = std::getenv(name.c_str());
    if (text != nullptr && *text != '\0') given.push_back({std::string(setting.path), text, name});
  }
  return given;
}

template <class T>
void Give(std::vector<GivenSetting>& given, const char* path, const char* flag,
          const std::optional<T>& value) {
  if (value) given.push_back({path, fmt::format("{}", *value), flag});
}

// "machine 0123 expected, 4567 found (AMD EPYC 9654, 96 cores, no device)"
std::string DescribeMachine(const Machine& machine) {
  std::size_t cores = 0;
  for (const Node& node : machine.nodes) cores += node.cores.size();
  std::vector<std::string> devices;
  for (const Device& device : machine.devices) devices.push_back(device.name);
  return fmt::format("{}, {} cores, {}", machine.cpu_name, cores,
                     devices.empty() ? "no device" : fmt::format("{}", fmt::join(devices, ", ")));
}

[[noreturn]] void ThrowMadeForAnother(const Session& session, bool machine, bool model) {
  const Profile& profile = session.profile;
  std::vector<std::string> lines;
  if (machine) {
    lines.push_back(fmt::format("machine: expected {}, found {} ({})", profile.machine_fingerprint,
                                Fingerprint(session.machine), DescribeMachine(session.machine)));
  }
  if (model) {
    lines.push_back(fmt::format("model: expected {}, found {} ({})", profile.model_fingerprint,
                                ModelFingerprint(session.model.config, session.model.tensors),
                                session.model.name));
  }
  Throw<ConfigError>(
      "{}: this profile was tuned for another {}; {}. Measure anew with `tandem tune`, or keep "
      "what carries over with --adapt",
      profile.file,
      machine && model ? "machine and model"
      : machine        ? "machine"
                       : "model",
      fmt::join(lines, "; "));
}

// Refuses or adapts a profile that was made for another machine or model. Returns what to tell the
// user; empty if nothing was changed.
std::string CheckMadeFor(Session& session, bool adapt) {
  Profile& profile = session.profile;
  const bool machine = !profile.machine_fingerprint.empty() &&
                       profile.machine_fingerprint != Fingerprint(session.machine);
  const bool model =
      !profile.model_fingerprint.empty() &&
      profile.model_fingerprint != ModelFingerprint(session.model.config, session.model.tensors);
  if (!machine && !model) return "";
  if (!adapt) ThrowMadeForAnother(session, machine, model);
  const std::vector<std::string> dropped = AdaptProfile(profile, machine, model);
  return fmt::format("{}, tuned for another {}, was adapted: the planner chose {}", profile.file,
                     machine && model ? "machine and model"
                     : machine        ? "machine"
                                      : "model",
                     fmt::join(dropped, ", "));
}

Machine MachineOf(const SessionOptions& options, const Profile& profile) {
  if (!options.machine_file.empty()) return ReadMachineFile(options.machine_file);
  return ReadMachine(profile.device == "none" ? ProbeDevices::kNo : ProbeDevices::kYes);
}

std::optional<RoutingStatistics> StatisticsOf(const Profile& profile, const Model& model) {
  if (profile.statistics.empty()) return std::nullopt;
  RoutingStatistics statistics = ReadStatistics(profile.statistics);
  CheckStatistics(statistics, model.config, model.tensors, profile.statistics);
  return statistics;
}

QuantizedModel OpenInFormats(const SessionOptions& options) {
  if (options.model_dir.empty() == options.synthetic.empty()) {
    throw UsageError("expected either --model DIR (or FILE.gguf) or --synthetic SPEC");
  }
  const Recipe recipe = RecipeOf(options.formats);
  Model model =
      options.model_dir.empty() ? OpenSynthetic(options.synthetic) : OpenModel(options.model_dir);
  for (const std::string& warning : model.warnings) {
    fmt::print(stderr, "tandem: warning: {}\n", warning);
  }
  if (recipe.empty()) return {std::move(model), {}};
  return Quantized(std::move(model), recipe);
}

Plan PlanOf(const Session& session) {
  PlanOptions plan;
  plan.precision = session.precision;
  plan.statistics = session.statistics ? &*session.statistics : nullptr;
  plan.abilities = session.abilities;
  return MakePlan(session.model.config, session.model.tensors, session.machine, session.profile,
                  plan);
}

}  // namespace

Model OpenModel(const SessionOptions& options) { return OpenInFormats(options).model; }

Profile ProfileOf(const SessionOptions& options) {
  std::vector<GivenSetting> given = Variables();
  given.insert(given.end(), options.settings.begin(), options.settings.end());
  Give(given, "device", "--device", options.device);
  Give(given, "workload.context", "--ctx", options.context);
  Give(given, "workload.chunk", "--chunk", options.chunk);
  Give(given, "workload.sequences", "--sequences", options.sequences);
  Give(given, "threads", "--threads", options.threads);
  return ResolveProfile(options.profile, given);
}

Session OpenSession(const SessionOptions& options) {
  Session session;
  session.profile = ProfileOf(options);
  QuantizedModel opened = OpenInFormats(options);
  session.model = std::move(opened.model);
  session.machine = MachineOf(options, session.profile);
  const std::string adapted = CheckMadeFor(session, options.adapt);
  session.statistics = StatisticsOf(session.profile, session.model);
  session.precision = options.precision;
  session.abilities = options.abilities;
  session.plan = PlanOf(session);
  if (!adapted.empty()) session.plan.notes.push_back(adapted);
  for (const UnfitFormat& unfit : opened.unfit) session.plan.notes.push_back(Describe(unfit));
  return session;
}

void PlanWithLess(Session& session, int index, std::uint64_t bytes) {
  session.profile.device_budgets[std::to_string(index)] = {.bytes = bytes, .reserve = {}};
  session.plan = PlanOf(session);
}

std::int64_t ContextLimit(const Session& session) {
  return std::min(session.profile.context, session.model.config.max_position_embeddings);
}

}  // namespace tandem
