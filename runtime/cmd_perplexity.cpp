#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/error.h"
#include "model/tokenizer.h"
#include "runtime/calibrate_progress.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/perplexity.h"
#include "runtime/plan_report.h"
#include "runtime/prompt.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Tells how well the model predicts a text: negative log likelihood per token, and perplexity. The
text is cut into windows of --ctx tokens (512), each beginning with BOS. With --against, also how far
its predictions are from those of another model with the same tokens, or of the same one in other
formats: Kullback-Leibler divergence of a token, in nats, and how often both have the same most likely
token. The reference is run and freed first; its logits stay in memory in between.
Examples:
  tandem perplexity --model DIR --text wiki.txt
  tandem perplexity --model DIR --experts q4_k --text wiki.txt --against DIR
  tandem perplexity --model m.gguf --text wiki.txt --against DIR --windows 20 --output json)";

constexpr std::int64_t kDefaultWindow = 512;

struct PerplexityFlags {
  SessionOptions session;
  std::string text;
  std::string against;
  std::string against_mix;
  std::optional<Precision> against_precision;
  std::optional<std::int64_t> windows;
  double reference_gib = 4;
  bool json = false;
  bool quiet = false;
};

// Predictions of one model, in the order of the windows.
struct Reference {
  Likelihood likelihood;
  std::vector<float> logits;  // [predictions, V]
};

// The reference as it is, placed as the model is.
SessionOptions ReferenceOptions(const PerplexityFlags& flags) {
  SessionOptions options = flags.session;
  options.model_dir = flags.against;
  options.formats = {};
  options.formats.mix = flags.against_mix;
  options.precision = flags.against_precision.value_or(options.precision);
  options.plan_report = false;
  options.settings.push_back({"deferral", "off", "--against"});  // what it changes is to be seen
  return options;
}

Windows ReadWindows(const PerplexityFlags& flags, const Model& model, const std::string& text) {
  const Tokenizer tokenizer = ReadTokenizer(model.path, model.config.vocab_size);
  const std::vector<std::int32_t> ids = tokenizer.Encode(text);
  const std::int64_t length = *flags.session.context;
  Windows windows = CutWindows(ids, length, model.config.bos_token_id);
  if (Predictions(windows) < 1) {
    Throw<UsageError>("--text {}: expected at least two tokens, found {}", flags.text, ids.size());
  }
  if (flags.windows && std::ssize(windows) > *flags.windows) {
    windows.resize(static_cast<std::size_t>(*flags.windows));
  }
  return windows;
}

// What can be wrong with a reference is said before hours of work, from the headers alone.
void CheckReference(const PerplexityFlags& flags, const Model& model, const Windows& windows,
                    const std::string& text) {
  const Model other = OpenModel(ReferenceOptions(flags));
  if (other.config.vocab_size != model.config.vocab_size ||
      ReadWindows(flags, other, text) != windows) {
    Throw<UsageError>(
        "--against {}: expected the tokens of {}, found another tokenizer: predictions of other "
        "tokens cannot be compared",
        flags.against, model.name);
  }
  constexpr double kGib = 1 << 30;
  const auto row = static_cast<double>(model.config.vocab_size) * sizeof(float);
  const double needed = static_cast<double>(Predictions(windows)) * row / kGib;
  if (needed <= flags.reference_gib) return;
  const double most = flags.reference_gib * kGib / row / static_cast<double>(windows[0].size());
  Throw<UsageError>(
      "the reference's logits for {} windows take {:.2f} GiB, more than --reference-gib {}: take "
      "--windows {}, or more memory",
      windows.size(), needed, flags.reference_gib, static_cast<std::int64_t>(most));
}

void Run(const PerplexityFlags& flags, Engine& engine, const char* what, const Windows& windows,
         const PredictionSink& sink) {
  CalibrationProgress progress(ProgressBar::StyleOf(flags.quiet), stderr, what);
  PredictOptions options;
  options.interrupted = Interrupted;
  options.progress = [&](std::int64_t done, std::int64_t total) { progress.Update(done, total); };
  Predict(engine, windows, options, sink);
  progress.End();
}

Reference RunReference(const PerplexityFlags& flags, const Windows& windows) {
  Session session = OpenSession(ReferenceOptions(flags));
  Engine engine = LoadEngine(session, flags.quiet);
  const auto vocab = static_cast<std::size_t>(engine.config().vocab_size);
  Reference reference;
  reference.logits.reserve(static_cast<std::size_t>(Predictions(windows)) * vocab);
  LikelihoodSum sum;
  std::vector<double> p(vocab);
  Run(flags, engine, "reference", windows, [&](std::span<const float> logits, std::int32_t target) {
    LogProbabilities(logits, p);
    sum.Add(p[target]);
    reference.logits.insert(reference.logits.end(), logits.begin(), logits.end());
  });
  reference.likelihood = sum.Result();
  return reference;
}

void Compare(const PerplexityFlags& flags, Engine& engine, const Windows& windows,
             const std::optional<Reference>& reference, PerplexityReport& report) {
  const auto vocab = static_cast<std::size_t>(engine.config().vocab_size);
  LikelihoodSum likelihood;
  DivergenceSum divergence;
  std::vector<double> q(vocab);
  std::vector<double> p(vocab);
  std::size_t at = 0;
  Run(flags, engine, "model", windows, [&](std::span<const float> logits, std::int32_t target) {
    LogProbabilities(logits, q);
    likelihood.Add(q[target]);
    if (!reference) return;
    LogProbabilities(std::span(reference->logits).subspan(at, vocab), p);
    divergence.Add(p, q);
    at += vocab;
  });
  report.likelihood = likelihood.Result();
  report.divergence = divergence.Result();
}

void Perplexity(PerplexityFlags flags) {
  if (!flags.session.context) flags.session.context = kDefaultWindow;
  if (*flags.session.context < 2) {
    Throw<UsageError>("--ctx {}: expected at least 2 tokens", *flags.session.context);
  }
  const std::string text = ReadText(flags.text);
  const Model model = OpenModel(flags.session);
  const Windows windows = ReadWindows(flags, model, text);
  PerplexityReport report = {.model = model.name,
                             .against = flags.against,
                             .windows = std::ssize(windows),
                             .window = *flags.session.context};
  const InterruptGuard guard;
  std::optional<Reference> reference;
  if (!flags.against.empty()) {
    CheckReference(flags, model, windows, text);
    reference = RunReference(flags, windows);
    report.reference = reference->likelihood;
  }
  Session session = OpenSession(flags.session);
  Engine engine = LoadEngine(session, flags.quiet);
  Compare(flags, engine, windows, reference, report);
  fmt::print("{}", flags.json ? PerplexityJson(report) : PerplexityText(report));
  PrintPlanReport(flags.session, session, engine);
}

void AddReferenceOptions(CLI::App& command, PerplexityFlags& flags) {
  CLI::Option* against =
      command.add_option("--against", flags.against, "reference to compare the predictions with");
  against->type_name("DIR|FILE");
  command
      .add_option("--against-quantize", flags.against_mix,
                  "mix of formats of the reference; as its files are if not given")
      ->type_name("MIX")
      ->needs(against);
  const auto set = [&flags](const std::string& name) {
    flags.against_precision = name == "exact" ? Precision::kExact : Precision::kFast;
  };
  command
      .add_option_function<std::string>("--against-precision", set,
                                        "of the reference; that of --precision if not given")
      ->type_name("exact|fast")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->needs(against);
  command
      .add_option("--reference-gib", flags.reference_gib,
                  "memory for the reference's logits, 4 bytes for each token of the vocabulary")
      ->type_name("GIB")
      ->check(CLI::Range(0.0, 1e6))
      ->needs(against)
      ->capture_default_str();
}

}  // namespace

void AddPerplexityCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("perplexity", "tell how well a model predicts a text");
  auto flags = std::make_shared<PerplexityFlags>();
  AddSourceOptions(*command, flags->session, Source::kModel);
  command->add_option("--text", flags->text, "text to predict, '-': standard input")
      ->type_name("FILE")
      ->required();
  command->add_option("--windows", flags->windows, "at most so many windows of the text")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  AddReferenceOptions(*command, *flags);
  AddPlacementOptions(*command, flags->session);
  AddOutputOption(*command, flags->json);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no note");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { Perplexity(*flags); }; });
}

}  // namespace tandem
