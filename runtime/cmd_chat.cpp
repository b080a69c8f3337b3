#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "memory/error.h"
#include "model/chat_format.h"
#include "model/tokenizer.h"
#include "runtime/chat.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/engine_feed.h"
#include "runtime/interrupt.h"
#include "runtime/line_reader.h"
#include "runtime/plan_report.h"
#include "runtime/summary.h"

namespace tandem {
namespace {

constexpr std::string_view kHelp =
    "/clear   forget the conversation\n"
    "/help    this text\n"
    "/quit    leave (also Ctrl-D)\n"
    "Ctrl-C stops an answer.\n";

struct ChatFlags {
  SessionOptions session;
  SamplerFlags sampler;
  std::string system;
  std::int64_t max_tokens = 4096;
  bool think = false;
  bool quiet = false;
};

ChatFormat FormatOf(const Session& session, const Tokenizer& tokenizer) {
  const Model& model = session.model;
  const ChatFormat format = ReadChatFormat(model.path, model.config, tokenizer);
  if (format == ChatFormat::kNone) {
    Throw<CheckpointError>("{}: this model has no chat tokens; `tandem run` continues a text",
                           model.path);
  }
  return format;
}

// Writes an answer as it comes; thinking is dimmed on a terminal.
class AnswerPrinter {
 public:
  void Write(std::string_view text, bool thinking) {
    if (thinking != dim_) SetDim(thinking);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  void End() {
    if (dim_) SetDim(false);
    std::fputs("\n", stdout);
    std::fflush(stdout);
  }

 private:
  void SetDim(bool dim) {
    dim_ = dim;
    if (terminal_) std::fputs(dim ? "\033[2m" : "\033[0m", stdout);
    if (!dim) std::fputs("\n", stdout);  // between thinking and answer
  }

  bool terminal_ = isatty(STDOUT_FILENO) == 1;
  bool dim_ = false;
};

// One turn. A turn that cannot be taken (too long) is told, and the conversation goes on.
void Answer(Conversation& conversation, const std::string& text, const std::string& where) {
  AnswerPrinter printer;
  ClearInterrupt();
  try {
    const Generated generated = conversation.Answer(
        text, [&](std::string_view piece, bool thinking) { printer.Write(piece, thinking); },
        Interrupted);
    printer.End();
    if (!where.empty()) fmt::print(stderr, "tandem: {}\n", Summary(generated, where));
  } catch (const UsageError& error) {
    fmt::print(stderr, "tandem: error: {} (/clear starts afresh)\n", error.what());
  }
  ClearInterrupt();
}

void Talk(Conversation& conversation, LineReader& reader, const std::string& where) {
  while (const std::optional<std::string> line = reader.Read()) {
    if (*line == "/quit" || *line == "/exit") return;
    if (line->empty()) continue;
    if (*line == "/help") {
      fmt::print("{}", kHelp);
    } else if (*line == "/clear") {
      conversation.Clear();
    } else if (line->starts_with('/') && line->find(' ') == std::string::npos) {
      fmt::print(stderr, "tandem: {}: unknown command; /help lists them\n", *line);
    } else {
      Answer(conversation, *line, where);
    }
  }
}

void Chat(const ChatFlags& flags) {
  const SamplerOptions sampler = Resolve(flags.sampler);
  Session session = OpenSession(flags.session);
  const Config config = session.model.config;  // the session's own moves into the engine
  const Tokenizer tokenizer = ReadTokenizer(session.model.path, config.vocab_size);
  const ChatFormat format = FormatOf(session, tokenizer);
  const std::int64_t context = ContextLimit(session);

  const InterruptGuard guard;
  Engine engine = LoadEngine(session, flags.quiet);
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal && !flags.quiet) {
    fmt::print(stderr, "{}; {}\n/help lists the commands.\n", Name(format), engine.Describe());
  }
  EngineFeed feed(engine, context, Interrupted, PrintWarning);
  Conversation conversation(
      feed, config, tokenizer,
      {.format = format,
       .thinking = flags.think,
       .system = flags.system,
       .generate = {
           .sampler = sampler, .max_tokens = flags.max_tokens, .eos_ids = config.eos_token_ids}});
  const std::unique_ptr<LineReader> reader = MakeLineReader("> ");
  Talk(conversation, *reader, flags.quiet || terminal ? "" : engine.Describe());
  PrintPlanReport(flags.session, session, engine);
}

}  // namespace

void AddChatCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("chat", "talk with a model on the terminal");
  auto flags = std::make_shared<ChatFlags>();
  AddSourceOptions(*command, flags->session, Source::kModel);
  command->add_option("--system", flags->system, "system message")->type_name("TEXT");
  command->add_flag("--think", flags->think, "let a model that can choose (V3.1) think first");
  command->add_option("-n,--max-tokens", flags->max_tokens, "most tokens of an answer")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  AddSamplerOptions(*command, flags->sampler);
  AddPlacementOptions(*command, flags->session);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no notes");
  command->footer(
      "In the chat: /help, /clear, /quit. Ctrl-C stops an answer, Ctrl-D leaves. Without a "
      "terminal\n"
      "each line of standard input is one message.\nExample:\n"
      "  tandem chat --model DeepSeek-V2-Lite-Chat --temperature 0.3 --ctx 8192");
  command->callback([flags, &chosen] { chosen = [flags] { Chat(*flags); }; });
}

}  // namespace tandem
