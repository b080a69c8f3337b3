#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "memory/error.h"
#include "memory/file.h"
#include "model/tokenizer.h"
#include "runtime/calibrate.h"
#include "runtime/calibrate_progress.h"
#include "runtime/calibrate_report.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/heat_map.h"
#include "runtime/interrupt.h"
#include "runtime/prompt.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Runs texts through the model and counts which experts each layer chooses. The planner puts the
hottest ones on the device when a profile names the file: placement.experts {policy: hot,
statistics: FILE}. Texts should be like those of later use; with several, each is counted apart.
A text is cut into pieces: prompts count as prefill and answers as decode, in chunks, which gives the
routing of token by token; with --generate the model writes the answers itself. Ctrl-C keeps what was
counted. Runs on the CPU alone unless --device or --profile says otherwise.
Examples:
  tandem calibrate --model DIR --text book.txt -o stats.json --svg stats.svg
  tandem calibrate --model DIR --text chat=chat.txt --text code=code.txt -o stats.json
  cat more.txt | tandem calibrate --model DIR --text more=- --merge stats.json -o stats.json
  tandem calibrate --model DIR --test stats.json --text unseen.txt
)";

struct CalibrateFlags {
  SessionOptions session;
  SamplerFlags sampler;
  std::vector<std::string> texts;
  std::string out;
  std::string svg;
  std::string merge;
  std::string test;
  std::optional<std::int64_t> tokens;
  std::optional<std::int64_t> prompt_tokens;
  std::optional<std::int64_t> answer_tokens;
  std::int64_t generate = 0;
  HeatMapOrder order = HeatMapOrder::kHottestFirst;
  bool json = false;
  bool quiet = false;
};

struct NamedFile {
  std::string name;
  std::string file;
};

// NAME=FILE, unless that is the name of a file.
NamedFile SplitName(const std::string& text) {
  std::error_code error;
  const std::size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && !std::filesystem::exists(text, error)) {
    return {text.substr(0, equals), text.substr(equals + 1)};
  }
  if (text == "-") return {"standard input", text};
  return {std::filesystem::path(text).filename().string(), text};
}

std::vector<CalibrationText> ReadTexts(const CalibrateFlags& flags, const Tokenizer& tokenizer) {
  std::vector<CalibrationText> texts;
  for (const std::string& flag : flags.texts) {
    const NamedFile named = SplitName(flag);
    for (const CalibrationText& earlier : texts) {
      if (earlier.name != named.name) continue;
      Throw<UsageError>(
          "--text {}: there is a text named '{}' already; give it another name: "
          "NAME={}",
          flag, named.name, named.file);
    }
    CalibrationText text{named.name, tokenizer.Encode(ReadText(named.file))};
    if (text.ids.empty()) Throw<UsageError>("--text {}: the text is empty", flag);
    if (flags.tokens && std::ssize(text.ids) > *flags.tokens) {
      text.ids.resize(static_cast<std::size_t>(*flags.tokens));
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

// Statistics of an earlier run, for this model.
std::optional<RoutingStatistics> ReadOld(const std::string& file, const Model& model) {
  if (file.empty()) return std::nullopt;
  RoutingStatistics old = ReadStatistics(file);
  CheckStatistics(old, model.config, model.tensors, file);
  return old;
}

// Calibration is about the routing, which is the same everywhere: a device is used on request only.
SessionOptions WithDevice(SessionOptions options) {
  const bool asked =
      options.device || !options.profile.empty() || ProfileOf(options).origins.contains("device");
  if (!asked) options.device = "none";
  return options;
}

CalibrationOptions OptionsOf(const CalibrateFlags& flags, const Session& session) {
  CalibrationOptions options;
  options.prompt_tokens = flags.prompt_tokens.value_or(session.profile.prompt_tokens);
  options.answer_tokens = flags.answer_tokens.value_or(session.profile.answer_tokens);
  options.generate = flags.generate;
  options.sampler = Resolve(flags.sampler);
  if (ReadAddBos(session.model.path)) options.bos = session.model.config.bos_token_id;
  options.interrupted = Interrupted;
  return options;
}

// An hour of counting must not end at a folder that is not there: the writer makes a temporary file
// and removes it.
void CheckWritable(const std::string& file) {
  if (file.empty()) return;
  const AtomicFileWriter writer(file);
}

void WriteFile(const std::string& file, const std::string& text) {
  AtomicFileWriter writer(file);
  writer.Write(text);
  writer.Commit();
}

void SayInterrupted(const Calibration& done) {
  if (done.tokens == 0) ThrowInterrupted();
  fmt::print(stderr, "tandem: interrupted: {} of {} tokens were counted, and are kept\n",
             done.tokens, done.total);
}

void Print(const CalibrateFlags& flags, const RoutingStatistics& statistics,
           const std::optional<RoutingStatistics>& tested) {
  std::string text;
  if (tested) {
    text = flags.json ? HotSetJson(*tested, statistics) : HotSetText(*tested, statistics);
  } else {
    text = flags.json ? CalibrationJson(statistics) : CalibrationReport(statistics);
  }
  fmt::print("{}", text);
}

// What was counted, on top of what the user wants it added to.
void Finish(const CalibrateFlags& flags, RoutingStatistics counted,
            std::optional<RoutingStatistics> old, const std::optional<RoutingStatistics>& tested) {
  if (old) {
    Merge(*old, counted);
    counted = std::move(*old);
  }
  if (!flags.out.empty()) WriteStatistics(counted, flags.out);
  if (!flags.svg.empty()) WriteFile(flags.svg, HeatMapSvg(counted, flags.order));
  Print(flags, counted, tested);
}

void RunCalibrate(const CalibrateFlags& flags) {
  if (flags.out.empty() && flags.test.empty()) {
    throw UsageError("expected -o FILE for the statistics, or --test FILE to try some out");
  }
  CheckWritable(flags.out);
  CheckWritable(flags.svg);
  Session session = OpenSession(WithDevice(flags.session));
  const RoutingStatistics empty = EmptyStatistics(session.model);
  const auto old = ReadOld(flags.merge, session.model);
  const auto tested = ReadOld(flags.test, session.model);
  CalibrationOptions options = OptionsOf(flags, session);
  const Tokenizer tokenizer = ReadTokenizer(session.model.path, session.model.config.vocab_size);
  const std::vector<CalibrationText> texts = ReadTexts(flags, tokenizer);

  const InterruptGuard guard;
  Engine engine = LoadEngine(session, flags.quiet);
  CalibrationProgress progress(ProgressBar::StyleOf(flags.quiet), stderr);
  options.progress = [&](std::int64_t done, std::int64_t total) { progress.Update(done, total); };
  const Calibration done = Calibrate(engine, empty, texts, options);
  progress.End();
  if (done.interrupted) SayInterrupted(done);
  Finish(flags, done.statistics, old, tested);
}

void AddCounting(CLI::App& command, CalibrateFlags& flags) {
  constexpr std::int64_t kMost = std::int64_t{1} << 24;
  const auto range = CLI::Range(std::int64_t{1}, kMost);
  command.add_option("--tokens", flags.tokens, "at most so many of each text")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  command
      .add_option("--prompt-tokens", flags.prompt_tokens,
                  "of each piece, counted as prefill; as the workload has it if not given")
      ->type_name("N")
      ->check(range);
  command
      .add_option("--answer-tokens", flags.answer_tokens,
                  "of each piece, counted as decode; as the workload has it if not given")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{0}, kMost));
  command
      .add_option("--generate", flags.generate,
                  "let the model write so many tokens after each prompt, and count these as decode")
      ->type_name("N")
      ->check(range);
  AddSamplerOptions(command, flags.sampler);
}

void AddFiles(CLI::App& command, CalibrateFlags& flags) {
  command
      .add_option("--text", flags.texts,
                  "text to count, '-': standard input; may be given several times")
      ->type_name("[NAME=]FILE")
      ->required()
      ->allow_extra_args(false);
  command.add_option("-o,--out", flags.out, "statistics to write")->type_name("FILE");
  command.add_option("--merge", flags.merge, "statistics that the new ones are added to")
      ->type_name("FILE");
  command.add_option("--test", flags.test, "tell what these statistics are worth on the texts")
      ->type_name("FILE");
  command.add_option("--svg", flags.svg, "heat map of layers and experts to write")
      ->type_name("FILE");
  const auto set = [&flags](const std::string& order) {
    flags.order = order == "id" ? HeatMapOrder::kById : HeatMapOrder::kHottestFirst;
  };
  command.add_option_function<std::string>("--svg-order", set, "experts from left to right")
      ->type_name("hot|id")
      ->check(CLI::IsMember({"hot", "id"}))
      ->default_str("hot");
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, Command& chosen) {
  auto* command =
      app.add_subcommand("calibrate", "count which experts texts make the model choose");
  auto flags = std::make_shared<CalibrateFlags>();
  AddSourceOptions(*command, flags->session, Source::kModel);
  AddFiles(*command, *flags);
  AddCounting(*command, *flags);
  AddPlacementOptions(*command, flags->session);
  AddOutputOption(*command, flags->json);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no note");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { RunCalibrate(*flags); }; });
}

}  // namespace tandem
