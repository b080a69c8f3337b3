#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/tensor_source.h"
#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/profile.h"
#include "placement/statistics.h"
#include "runtime/abilities.h"
#include "runtime/format_options.h"

namespace tandem {

// What every command that touches a model is told: --model or --synthetic, --profile, and the flags
// that override the profile.
struct SessionOptions {
  std::string model_dir;  // a folder or a GGUF file; one of these two
  std::string synthetic;
  FormatOptions formats;  // the model is quantised to these as it is loaded
  std::string profile;
  std::vector<GivenSetting> settings;  // of flags, in their order
  // The same for what commands ask for or set by themselves; above `settings`.
  std::optional<std::string> device;
  std::optional<std::int64_t> context;
  std::optional<int> threads;
  std::optional<std::int64_t> chunk;
  std::optional<std::int64_t> sequences;
  std::string machine_file;  // plan for this machine and not for the one at hand
  bool adapt = false;  // of a profile made for another machine or model, keep what carries over
  bool plan_report = false;  // after the work: planned beside real bytes and speed, on stderr
  Precision precision = Precision::kFast;
  Abilities abilities = kAbilities;
};

// A model, opened and planned, with nothing loaded yet.
struct Session {
  Precision precision = Precision::kFast;
  Abilities abilities = kAbilities;
  Model model;
  Profile profile;
  Machine machine;
  std::optional<RoutingStatistics> statistics;
  Plan plan;
};

// Opens the model (headers only), reads the machine (no OpenCL call if the device is "none") or the
// file that describes one, and the routing statistics that the profile names, and plans. The
// weights are untouched. Throws what the parts throw, and ConfigError for a profile that was made
// for another machine or model, unless it is to be adapted.
Session OpenSession(const SessionOptions& options);

// Plans again with at most so many bytes on device `index`. Throws what MakePlan throws.
void PlanWithLess(Session& session, int index, std::uint64_t bytes);

// The model of --model or --synthetic, in the formats that are asked for. Throws UsageError unless
// exactly one is given.
Model OpenModel(const SessionOptions& options);

// The profile that the options name (or the built-in default) with the TANDEM_* variables and the
// flags on top.
Profile ProfileOf(const SessionOptions& options);

// Tokens that one sequence may hold: the profile's context, or less where the model ends.
std::int64_t ContextLimit(const Session& session);

}  // namespace tandem
