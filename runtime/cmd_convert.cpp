#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/convert.h"
#include "runtime/format_options.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"
#include "runtime/table.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Writes a model as one GGUF file that Tandem, llama.cpp and ik_llama.cpp load. Without a mix, a recipe
or formats the model keeps its own (FP8, which GGUF has not, becomes BF16). Norms and the router are
always F32.
Examples:
  tandem convert --model DIR --out model-q4_k_m.gguf --quantize q4_k_m
  tandem convert --model DIR --out model.gguf --experts q4_k --shared q8_0 --attention q8_0
  tandem convert --synthetic deepseek-v2-lite --out random.gguf --quantize q8_0)";

struct ConvertFlags {
  SessionOptions session;
  FormatOptions formats;
  ConvertOptions convert;
  bool json = false;
  bool quiet = false;
};

double BitsPerWeight(std::uint64_t bytes, std::int64_t values) {
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(values);
}

void PrintText(const ConvertResult& result, const std::string& out) {
  Table table({{"role"},
               {"format"},
               {"weights", Table::Align::kRight},
               {"bytes", Table::Align::kRight},
               {"bits a weight", Table::Align::kRight}});
  std::int64_t values = 0;
  std::uint64_t bytes = 0;
  for (const ConvertedPart& part : result.parts) {
    table.Add({std::string(Name(part.role)), std::string(Name(part.format)),
               FormatCount(part.values), FormatBytes(part.bytes),
               fmt::format("{:.2f}", BitsPerWeight(part.bytes, part.values))});
    values += part.values;
    bytes += part.bytes;
  }
  table.Add({"all", "", FormatCount(values), FormatBytes(bytes),
             fmt::format("{:.2f}", BitsPerWeight(bytes, values))});
  fmt::print("{}\n", table.ToText());
  for (const UnfitFormat& unfit : result.unfit) fmt::print("{}\n", Describe(unfit));
  for (const std::string& note : result.notes) fmt::print("not in the file: {}\n", note);
  fmt::print("{}: {} in {:.1f} s\n", out, FormatBytes(result.file_bytes), result.seconds);
}

void PrintJson(const ConvertResult& result, const std::string& out) {
  nlohmann::ordered_json json = {{"file", out},
                                 {"bytes", result.file_bytes},
                                 {"seconds", result.seconds},
                                 {"parts", nlohmann::ordered_json::array()},
                                 {"unfit", nlohmann::ordered_json::array()},
                                 {"not_in_the_file", result.notes}};
  for (const ConvertedPart& part : result.parts) {
    json["parts"].push_back({{"role", Name(part.role)},
                             {"format", Name(part.format)},
                             {"weights", part.values},
                             {"bytes", part.bytes}});
  }
  for (const UnfitFormat& unfit : result.unfit) json["unfit"].push_back(Describe(unfit));
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void RunConvert(ConvertFlags& flags) {
  flags.convert.recipe = RecipeOf(flags.formats);
  const Model model = OpenModel(flags.session);
  const InterruptGuard guard;
  ProgressBar progress(ProgressBar::StyleOf(flags.quiet), stderr, Interrupted);
  ConvertResult result;
  try {
    result = Convert(model, flags.convert, &progress);
  } catch (const Error&) {
    if (Interrupted()) ThrowInterrupted();  // the file is gone already
    throw;
  }
  flags.json ? PrintJson(result, flags.convert.out) : PrintText(result, flags.convert.out);
}

}  // namespace

void AddConvertCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("convert", "write a model as a GGUF file, quantised");
  auto flags = std::make_shared<ConvertFlags>();
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  command->add_option("-o,--out", flags->convert.out, "GGUF file to write")
      ->type_name("FILE")
      ->required();
  AddFormatOptions(*command, flags->formats, "Options");
  command->add_option("--threads", flags->convert.threads, "0: as many as there are cores")
      ->type_name("N")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_flag("--force", flags->convert.overwrite, "overwrite FILE if it is there");
  AddOutputOption(*command, flags->json);
  command->add_flag("-q,--quiet", flags->quiet, "no progress");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { RunConvert(*flags); }; });
}

}  // namespace tandem
