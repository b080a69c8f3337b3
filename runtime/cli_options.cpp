#include "runtime/cli_options.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <utility>

#include "memory/error.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"

namespace tandem {
namespace {

constexpr std::int64_t kMaxContext = std::int64_t{1} << 24;
constexpr std::int64_t kMaxChunk = std::int64_t{1} << 16;
constexpr int kMaxThreads = 4096;

}  // namespace

void AddSourceOptions(CLI::App& app, SessionOptions& options, Source source) {
  CLI::Option* model = app.add_option("-m,--model", options.model_dir,
                                      "folder with config.json and safetensors files");
  model->type_name("DIR");
  if (source == Source::kModel) {
    model->required();
    return;
  }
  CLI::Option* synthetic = app.add_option(
      "--synthetic", options.synthetic,
      "random weights of a published shape, e.g. deepseek-v2-lite:layers=8:dtype=bf16");
  synthetic->type_name("SPEC")->excludes(model);
}

void AddPlacementOptions(CLI::App& app, SessionOptions& options) {
  app.add_option("--profile", options.profile, "YAML file that says what runs where")
      ->type_name("FILE")
      ->envname("TANDEM_PROFILE");
  app.add_option("--device", options.device,
                 "OpenCL device: auto, none, a number of `tandem devices`, or a part of a name")
      ->type_name("auto|none|INDEX|NAME")
      ->envname("TANDEM_DEVICE");
  app.add_option("--ctx", options.context, "tokens of KV cache")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, kMaxContext));
  app.add_option("--threads", options.threads, "CPU threads")
      ->type_name("N")
      ->check(CLI::Range(1, kMaxThreads));
  app.add_option("--chunk", options.chunk, "most tokens of one step, in prefill")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, kMaxChunk));
  const auto set = [&options](const std::string& name) {
    options.precision = name == "exact" ? Precision::kExact : Precision::kFast;
  };
  app.add_option_function<std::string>("--precision", set,
                                       "exact: activations stay f32; fast: kernels may round them")
      ->type_name("exact|fast")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->default_str(options.precision == Precision::kExact ? "exact" : "fast");
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

Engine LoadEngine(Session& session, bool quiet) {
  // What the plan chose on its own, such as no device where none was found, is said at the start.
  for (const std::string& note : session.plan.notes) {
    if (!quiet) fmt::print(stderr, "tandem: note: {}\n", note);
  }
  ProgressBar progress(ProgressBar::StyleOf(quiet), stderr, Interrupted);
  try {
    return Engine(std::move(session.model), std::move(session.plan), &progress);
  } catch (const Error&) {
    if (Interrupted()) ThrowInterrupted();  // not a failure of the load
    throw;
  }
}

}  // namespace tandem
