#include <fmt/format.h>

#include <memory>

#include "placement/settings.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/session.h"

namespace tandem {
namespace {

struct ShowFlags {
  SessionOptions session;
  bool origin = false;
  bool json = false;
};

void Show(const ShowFlags& flags) {
  const Profile profile = ProfileOf(flags.session);
  fmt::print("{}", flags.json ? SettingsJson(profile) : SettingsText(profile, flags.origin));
}

void AddShow(CLI::App& config, Command& chosen) {
  CLI::App* command = config.add_subcommand("show", "every setting and its value");
  auto flags = std::make_shared<ShowFlags>();
  AddProfileOptions(*command, flags->session);
  command->add_flag("--origin", flags->origin,
                    "where each value came from: file:line:column, flag, variable, preset");
  AddOutputOption(*command, flags->json);
  command->footer(
      "JSON has the origins always. Example:\n"
      "  TANDEM_THREADS=8 tandem config show --origin --profile gpu-24g --ctx 32768");
  command->callback([flags, &chosen] { chosen = [flags] { Show(*flags); }; });
}

void AddSchema(CLI::App& config, Command& chosen) {
  CLI::App* command = config.add_subcommand("schema", "the JSON Schema of profiles, for editors");
  command->callback([&chosen] { chosen = [] { fmt::print("{}", SettingsSchema()); }; });
}

}  // namespace

void AddConfigCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("config", "show settings and where they came from");
  command->require_subcommand(1);
  AddShow(*command, chosen);
  AddSchema(*command, chosen);
}

}  // namespace tandem
