#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory/error.h"
#include "model/tokenizer.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/engine_feed.h"
#include "runtime/generate.h"
#include "runtime/interrupt.h"
#include "runtime/plan_report.h"
#include "runtime/prompt.h"
#include "runtime/summary.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Streams the text that follows the prompt. Ctrl-C stops within a step and still ends with the summary
and exit code 0; a second Ctrl-C ends at once (130).
Examples:
  tandem run --model DIR --prompt "Once upon a time" --max-tokens 100 --seed 1
  tandem run --model DIR --prompt-file story.txt --temperature 0 --stop "THE END"
  echo "def fib(n):" | tandem run --model DIR --device none -)";

struct RunFlags {
  SessionOptions session;
  SamplerFlags sampler;
  std::string prompt;
  std::string prompt_file;
  std::string standard_input;  // "-" or empty
  bool has_prompt = false;
  std::int64_t max_tokens = 256;
  std::vector<std::string> stops;
  bool quiet = false;
};

std::string PromptText(const RunFlags& flags) {
  if (!flags.standard_input.empty() && flags.standard_input != "-") {
    Throw<UsageError>(
        "'{}': unexpected; a prompt goes after --prompt, and '-' reads it from "
        "standard input",
        flags.standard_input);
  }
  const int sources = static_cast<int>(flags.has_prompt) +
                      static_cast<int>(!flags.prompt_file.empty()) +
                      static_cast<int>(!flags.standard_input.empty());
  if (sources != 1) {
    throw UsageError("expected one of --prompt TEXT, --prompt-file FILE and '-'");
  }
  if (flags.has_prompt) return flags.prompt;
  return ReadText(flags.prompt_file.empty() ? "-" : flags.prompt_file);
}

void PrintText(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void Run(const RunFlags& flags) {
  GenerateOptions options{
      .sampler = Resolve(flags.sampler), .max_tokens = flags.max_tokens, .stops = flags.stops};
  const std::string text = PromptText(flags);
  Session session = OpenSession(flags.session);
  const Config& config = session.model.config;
  const std::string& dir = session.model.path;
  const Tokenizer tokenizer = ReadTokenizer(dir, config.vocab_size);
  const std::vector<std::int32_t> ids = EncodePrompt(text, config, tokenizer, ReadAddBos(dir));
  options.eos_ids = config.eos_token_ids;
  const std::int64_t context = ContextLimit(session);
  CheckPrompt(ids, context);

  const InterruptGuard guard;
  Engine engine = LoadEngine(session, flags.quiet);
  EngineFeed feed(engine, context, Interrupted, PrintWarning);
  const Generated generated = Generate(feed, tokenizer, ids, options, PrintText, Interrupted);
  PrintText("\n");
  if (!flags.quiet) {
    std::string where = engine.Describe();
    if (engine.steps_ahead()) where += "; " + StepsAheadText(engine.metrics());
    fmt::print(stderr, "tandem: {}\n", Summary(generated, where));
  }
  PrintPlanReport(flags.session, session, engine);
}

}  // namespace

void AddRunCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("run", "continue a text");
  auto flags = std::make_shared<RunFlags>();
  AddSourceOptions(*command, flags->session, Source::kModel);
  const auto set_prompt = [flags = flags.get()](const std::string& text) {
    flags->prompt = text;
    flags->has_prompt = true;
  };
  command->add_option_function<std::string>("-p,--prompt", set_prompt, "the text to continue")
      ->type_name("TEXT");
  command->add_option("--prompt-file", flags->prompt_file, "file with the text to continue")
      ->type_name("FILE");
  command->add_option("input", flags->standard_input, "'-': read the text from standard input")
      ->type_name("-");
  command->add_option("-n,--max-tokens", flags->max_tokens, "most tokens to generate")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  AddSamplerOptions(*command, flags->sampler);
  command->add_option("--stop", flags->stops, "end before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  AddPlacementOptions(*command, flags->session);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no summary");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { Run(*flags); }; });
}

}  // namespace tandem
