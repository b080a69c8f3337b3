#include "runtime/cli_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string_view>
#include <utility>

#include "memory/error.h"
#include "memory/usage.h"
#include "placement/byte_size.h"
#include "placement/settings.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"

namespace tandem {
namespace {

constexpr const char* kFormatsGroup =
    "Formats that the model is quantised to while it is loaded (docs/convert.md)";
constexpr const char* kSettingsGroup =
    "Settings, also keys of a profile (kv.type) and variables (TANDEM_KV_TYPE)";

template <class T>
std::optional<T> WholeNumber(const std::string& text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole ? std::optional(number) : std::nullopt;
}

// Commands look at these fields; whether the text is right is checked with all settings.
void Mirror(SessionOptions& options, std::string_view path, const std::string& text) {
  if (path == "device" && !text.starts_with('[')) options.device = text;
  if (path == "workload.context") options.context = WholeNumber<std::int64_t>(text);
  if (path == "workload.chunk") options.chunk = WholeNumber<std::int64_t>(text);
  if (path == "threads") options.threads = WholeNumber<int>(text);
}

// The settings that are asked for most stand among a command's own flags, the others below them.
void AddSettingOption(CLI::App& app, SessionOptions& options, const Setting& setting) {
  const std::string flag = FlagOf(setting);
  const std::string alias(setting.alias);
  const std::string source = alias.empty() ? flag : alias;
  const auto give = [&options, &setting, source](const std::string& text) {
    options.settings.push_back({std::string(setting.path), text, source});
    Mirror(options, setting.path, text);
  };
  const bool common = !alias.empty() || setting.path == "device" || setting.path == "threads";
  app.add_option_function<std::string>(alias.empty() ? flag : alias + "," + flag, give,
                                       std::string(setting.help))
      ->type_name(std::string(setting.values))
      ->group(common ? "Options" : kSettingsGroup);
}

}  // namespace

void AddSourceOptions(CLI::App& app, SessionOptions& options, Source source) {
  CLI::Option* model = app.add_option("-m,--model", options.model_dir,
                                      "folder with config.json and safetensors files, or a GGUF "
                                      "file (any part of a split one)");
  model->type_name("DIR|FILE");
  if (source == Source::kModel) {
    model->required();
    return;
  }
  CLI::Option* synthetic = app.add_option(
      "--synthetic", options.synthetic,
      "random weights of a published shape, e.g. deepseek-v2-lite:layers=8:dtype=bf16");
  synthetic->type_name("SPEC")->excludes(model);
}

void AddProfileOptions(CLI::App& app, SessionOptions& options) {
  app.add_option("--profile", options.profile,
                 "YAML file that says what runs where, or a shipped one such as gpu-24g")
      ->type_name("FILE|NAME")
      ->envname("TANDEM_PROFILE");
  for (const Setting& setting : Settings()) {
    if (!setting.file_only) AddSettingOption(app, options, setting);
  }
}

void AddPlacementOptions(CLI::App& app, SessionOptions& options) {
  AddFormatOptions(app, options.formats, kFormatsGroup);
  AddProfileOptions(app, options);
  const auto set = [&options](const std::string& name) {
    options.precision = name == "exact" ? Precision::kExact : Precision::kFast;
  };
  app.add_option_function<std::string>("--precision", set,
                                       "exact: activations stay f32; fast: kernels may round them")
      ->type_name("exact|fast")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->envname("TANDEM_PRECISION")
      ->default_str(options.precision == Precision::kExact ? "exact" : "fast");
  app.add_flag("--adapt", options.adapt,
               "of a profile tuned for another machine or model, keep what carries over");
  app.add_flag("--plan-report", options.plan_report,
               "at the end, on stderr: planned beside real bytes and speed");
}

void AddMachineOption(CLI::App& app, SessionOptions& options) {
  app.add_option("--machine", options.machine_file,
                 "plan for the machine that this file describes (`tandem topology --output json`)")
      ->type_name("FILE");
}

void AddOutputOption(CLI::App& app, bool& json) {
  app.add_option_function<std::string>(
         "--output", [&json](const std::string& name) { json = name == "json"; }, "form of output")
      ->type_name("text|json")
      ->check(CLI::IsMember({"text", "json"}))
      ->default_str("text");
}

void AddSamplerOptions(CLI::App& app, SamplerFlags& flags) {
  SamplerOptions& o = flags.options;
  app.add_option("--temperature", o.temperature, "0 to 100; 0 takes the likeliest token always")
      ->type_name("X")
      ->capture_default_str();
  app.add_option("--top-k", o.top_k, "sample from the K likeliest tokens; 0: from all")
      ->type_name("K")
      ->capture_default_str();
  app.add_option("--top-p", o.top_p, "sample from the likeliest tokens that hold this share")
      ->type_name("X")
      ->capture_default_str();
  app.add_option("--min-p", o.min_p, "drop tokens below this share of the likeliest; 0: none")
      ->type_name("X")
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "the same seed gives the same text; random if not given")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{0}, INT64_MAX));
}

SamplerOptions Resolve(const SamplerFlags& flags) {
  SamplerOptions options = flags.options;
  options.seed = flags.seed ? static_cast<std::uint64_t>(*flags.seed) : std::random_device{}();
  CheckSampler(options);
  return options;
}

void RefuseFlagsOf(const CLI::App& upper, const std::string& upper_name, const std::string& name) {
  for (const CLI::Option* option : upper.get_options()) {
    if (option->count() == 0) continue;
    Throw<UsageError>("{}: an option of `{}`, not of `{}`", option->get_name(), upper_name, name);
  }
}

void PrintWarning(const std::string& text) { fmt::print(stderr, "tandem: warning: {}\n", text); }

namespace {

// What the device gave before it refused; where it gave nothing, or more than that, 85 % of what
// the plan asked for.
std::uint64_t LessThan(std::uint64_t planned, int index) {
  const std::uint64_t less = planned * 85 / 100;
  const std::uint64_t given = PeakDeviceBufferBytes(index);
  return given > 0 ? std::min(given, less) : less;
}

void PlanWithLess(Session& session, const DeviceMemoryError& error) {
  const auto& devices = session.plan.devices;
  const auto found = std::ranges::find(devices, error.device(), &PlanDevice::index);
  const PlanDevice device = found != devices.end() ? *found : devices.at(0);
  const auto place = static_cast<int>(found != devices.end() ? found - devices.begin() : 0);
  const std::uint64_t planned = session.plan.DeviceBytes(place);
  const std::uint64_t bytes = LessThan(planned, device.index);
  try {
    PlanWithLess(session, device.index, bytes);
  } catch (const Error& none) {
    Throw<DeviceMemoryError>("{}; with {} there no plan fits: {}", error.what(), FormatBytes(bytes),
                             none.what());
  }
  PrintWarning(
      fmt::format("'{}' has less room than it says: {}; planned again with {} instead of {} there "
                  "(memory.device in the profile saves the attempt)",
                  device.name, error.what(), FormatBytes(bytes), FormatBytes(planned)));
}

// What the load found out and can live with.
Engine Told(Engine engine) {
  for (const std::string& warning : engine.Warnings()) PrintWarning(warning);
  return engine;
}

}  // namespace

Engine LoadEngine(Session& session, bool quiet) {
  // What the plan chose on its own, such as no device where none was found, is said at the start.
  for (const std::string& note : session.plan.notes) {
    if (!quiet) fmt::print(stderr, "tandem: note: {}\n", note);
  }
  ProgressBar progress(ProgressBar::StyleOf(quiet), stderr, Interrupted);
  try {
    try {
      return Told(Engine(session.model, session.plan, &progress));
    } catch (const DeviceMemoryError& error) {
      PlanWithLess(session, error);
    }
    return Told(Engine(std::move(session.model), std::move(session.plan), &progress));
  } catch (const Error&) {
    if (Interrupted()) ThrowInterrupted();  // not a failure of the load
    throw;
  }
}

}  // namespace tandem
