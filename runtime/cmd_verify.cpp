#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"
#include "runtime/verify.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Reads all weights: sizes and structure, values and block scales that are NaN or infinite, and in
files of `tandem convert` the hash of each tensor. Exit code 65 if something is damaged.
Examples:
  tandem verify model.gguf
  tandem verify DeepSeek-V2-Lite)";

struct VerifyFlags {
  std::string path;
  int threads = 0;
  bool json = false;
  bool quiet = false;
};

void PrintResult(const VerifyResult& r, const VerifyFlags& flags) {
  if (flags.json) {
    const nlohmann::ordered_json json = {{"path", flags.path},   {"files", r.files},
                                         {"tensors", r.tensors}, {"bytes", r.bytes},
                                         {"hashed", r.hashed},   {"seconds", r.seconds}};
    return fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  const std::string hashes = r.hashed == 0 ? "it holds no hashes to compare with"
                                           : fmt::format("the hashes of {} agree", r.hashed);
  fmt::print("{}: {} tensors in {} file(s), {}: all values are finite; {} ({:.1f} s)\n", flags.path,
             r.tensors, r.files, FormatBytes(r.bytes), hashes, r.seconds);
}

void RunVerify(const VerifyFlags& flags) {
  const InterruptGuard guard;
  ProgressBar progress(ProgressBar::StyleOf(flags.quiet), stderr, Interrupted);
  VerifyResult result;
  try {
    result = Verify(flags.path, flags.threads, &progress);
  } catch (const Error&) {
    if (Interrupted()) ThrowInterrupted();
    throw;
  }
  PrintResult(result, flags);
}

}  // namespace

void AddVerifyCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("verify", "read all weights and look for damage");
  auto flags = std::make_shared<VerifyFlags>();
  command->add_option("path", flags->path, "GGUF file or model folder")
      ->type_name("FILE|DIR")
      ->required();
  command->add_option("--threads", flags->threads, "0: as many as there are cores")
      ->type_name("N")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  AddOutputOption(*command, flags->json);
  command->add_flag("-q,--quiet", flags->quiet, "no progress");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { RunVerify(*flags); }; });
}

}  // namespace tandem
