#include "runtime/cli.h"

#include <unistd.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "memory/cl_device.h"
#include "memory/error.h"
#include "placement/nearest.h"

namespace tandem {
namespace {

constexpr const char* kExamples = R"(Examples:
  tandem run --model DeepSeek-V2-Lite --prompt "The capital of France is" --max-tokens 32
  tandem chat --model DeepSeek-V2-Lite-Chat --device none
  tandem bench --synthetic deepseek-v2-lite:layers=8:dtype=bf16 --device none
  tandem plan --model DeepSeek-V3 --profile profiles/my-machine.yaml
`tandem COMMAND --help` tells a command's options.

Exit codes: 0 done, 2 wrong usage, 65 damaged or unsupported model, 66 missing file, 69 no such
device or not enough memory, 70 internal error, 71 limit of the system, 74 read or write failed,
78 bad profile or setting.)";

void AddCommands(CLI::App& app, Command& chosen) {
  AddRunCommand(app, chosen);
  AddChatCommand(app, chosen);
  AddLogitsCommand(app, chosen);
  AddInspectCommand(app, chosen);
  AddTokenizeCommand(app, chosen);
  AddDevicesCommand(app, chosen);
  AddTopologyCommand(app, chosen);
  AddDoctorCommand(app, chosen);
  AddPlanCommand(app, chosen);
  AddBenchCommand(app, chosen);
  AddTuneCommand(app, chosen);
  AddCalibrateCommand(app, chosen);
  AddConvertCommand(app, chosen);
  AddVerifyCommand(app, chosen);
  AddPerplexityCommand(app, chosen);
  AddConfigCommand(app, chosen);
}

// The command that the line names, or the program itself.
const CLI::App& Deepest(const CLI::App& app) {
  const auto commands = app.get_subcommands();
  return commands.empty() ? app : Deepest(*commands.front());
}

std::vector<std::string> KnownFlags(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

std::vector<std::string> KnownCommands(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  return names;
}

// "; did you mean '--prompt'?" for a flag or command that is close to a known one.
std::string Suggestion(const CLI::App& app) {
  const auto extras = app.remaining(/*recurse=*/true);
  if (extras.empty()) return {};
  const std::string word = extras.front().substr(0, extras.front().find('='));
  const auto known = word.starts_with("-") ? KnownFlags(Deepest(app)) : KnownCommands(app);
  const std::vector<std::string_view> views(known.begin(), known.end());
  const std::string nearest = NearestKey(word, views);
  return nearest.empty() ? "" : fmt::format("; '{}' is unknown, did you mean '{}'?", word, nearest);
}

// What the parser says, with a hint at the help.
std::string UsageMessage(const CLI::App& app, const CLI::ParseError& error) {
  std::string name;
  for (const CLI::App* at = &Deepest(app); at != nullptr; at = at->get_parent()) {
    name = at->get_name() + (name.empty() ? "" : " " + name);
  }
  return fmt::format("{}{} (`{} --help` tells the usage)", error.what(), Suggestion(app), name);
}

void ParseAndRun(int argc, char** argv) {
  CLI::App app("Runs DeepSeek mixture-of-experts models on an OpenCL device and the CPU together.",
               "tandem");
  app.set_version_flag("--version", "tandem " TANDEM_VERSION);
  app.footer(kExamples);
  app.require_subcommand(1);
  Command chosen;
  AddCommands(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    app.exit(help);  // prints the help or the version
    return;
  } catch (const CLI::ParseError& error) {
    throw UsageError(UsageMessage(app, error));
  }
  chosen();
}

int Fail(ExitCode code, std::string_view message) {
  std::fflush(stdout);
  fmt::print(stderr, "tandem: error: {}\n", message);
  if (AnyClDeviceHangs()) _exit(static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace

int RunProgram(int argc, char** argv) {
  try {
    ParseAndRun(argc, argv);
    return std::fflush(stdout) == 0 ? 0 : Fail(ExitCode::kIo, "standard output: write failed");
  } catch (const Error& error) {
    return Fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return Fail(ExitCode::kOsLimit, "out of memory");
  } catch (const std::exception& error) {
    return Fail(ExitCode::kInternal, error.what());
  }
}

}  // namespace tandem
