#include <fmt/format.h>

#include <memory>

#include "placement/plan.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/session.h"

namespace tandem {
namespace {

struct PlanFlags {
  SessionOptions session;
  bool json = false;
};

void PrintPlan(const PlanFlags& flags) {
  const Session session = OpenSession(flags.session);
  const std::string text = flags.json ? ToJson(session.plan) : ToText(session.plan);
  fmt::print("{}{}", text, text.ends_with('\n') ? "" : "\n");
}

}  // namespace

void AddPlanCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("plan", "show what would run where, without loading");
  auto flags = std::make_shared<PlanFlags>();
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  AddPlacementOptions(*command, flags->session);
  AddOutputOption(*command, flags->json);
  command->footer(
      "Example:\n  tandem plan --synthetic deepseek-v3:dtype=fp8 --device none --output json");
  command->callback([flags, &chosen] { chosen = [flags] { PrintPlan(*flags); }; });
}

}  // namespace tandem
