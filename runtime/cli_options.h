#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/generate.h"
#include "runtime/session.h"

namespace tandem {

// Flags that several commands share: declared once, so that they read the same everywhere.

// Whether a command works without text, and so with --synthetic too.
enum class Source : std::uint8_t { kModel, kModelOrSynthetic };

// --model, and --synthetic.
void AddSourceOptions(CLI::App& app, SessionOptions& options, Source source);
// --profile, and a flag for every setting of a profile: --device, --ctx (--workload-context), ...
void AddProfileOptions(CLI::App& app, SessionOptions& options);
// The same with --quantize and the other formats, --precision, --adapt and --plan-report: where and
// how a model runs. The precision that `options` holds is the default.
void AddPlacementOptions(CLI::App& app, SessionOptions& options);
// --machine FILE: plan for a machine that is not this one.
void AddMachineOption(CLI::App& app, SessionOptions& options);
// --output text|json
void AddOutputOption(CLI::App& app, bool& json);

struct SamplerFlags {
  SamplerOptions options{.temperature = 0.6, .top_k = 0, .top_p = 0.95, .min_p = 0, .seed = 0};
  std::optional<std::int64_t> seed;
};
// --temperature, --top-k, --top-p, --min-p, --seed
void AddSamplerOptions(CLI::App& app, SamplerFlags& flags);
// Checked, with a random seed where the user gave none.
SamplerOptions Resolve(const SamplerFlags& flags);

// Loads the weights of an opened session with progress on stderr, unless `quiet`. Where a device
// has less room than it says, plans once more with less there, and says so. The session's model and
// plan go into the engine.
Engine LoadEngine(Session& session, bool quiet);

// For a command below another, `tandem bench --depth 8 kernels`: what belongs to the upper one
// would be ignored. Throws UsageError.
void RefuseFlagsOf(const CLI::App& upper, const std::string& upper_name, const std::string& name);

// "tandem: warning: ..." on standard error.
void PrintWarning(const std::string& text);

}  // namespace tandem
