#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory/error.h"
#include "model/config.h"
#include "model/open_model.h"
#include "model/tokenizer.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/ids.h"
#include "runtime/prompt.h"

namespace tandem {
namespace {

struct TokenizeFlags {
  SessionOptions session;
  std::string text;
  bool decode = false;
  bool plain = false;
};

void Decode(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<std::int32_t> ids = ParseIds(text, tokenizer.vocab_size());
  fmt::print("{}\n", tokenizer.Decode(ids, /*with_special=*/true));
}

void Tokenize(const TokenizeFlags& flags) {
  const Config config = ReadModelConfig(flags.session.model_dir);
  const Tokenizer tokenizer = ReadTokenizer(flags.session.model_dir, config.vocab_size);
  const std::string text = flags.text == "-" ? ReadText("-") : flags.text;
  if (flags.decode) return Decode(tokenizer, text);
  const auto special = flags.plain ? Tokenizer::Special::kText : Tokenizer::Special::kParse;
  fmt::print("{}\n", fmt::join(tokenizer.Encode(text, special), " "));
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("tokenize", "text to token ids, and back");
  auto flags = std::make_shared<TokenizeFlags>();
  AddSourceOptions(*command, flags->session, Source::kModel);
  command->add_flag("--decode", flags->decode, "TEXT is ids; print their text");
  command->add_flag("--plain", flags->plain, "control tokens in TEXT are ordinary characters");
  command->add_option("text", flags->text, "the text or the ids; '-': standard input")
      ->type_name("TEXT")
      ->required();
  command->footer(
      "Prints ids with spaces between them, no BOS added.\nExamples:\n"
      "  tandem tokenize --model DIR \"Hello, world\"\n"
      "  tandem tokenize --model DIR --decode \"330 501 746\"");
  command->callback([flags, &chosen] { chosen = [flags] { Tokenize(*flags); }; });
}

}  // namespace tandem
