#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "memory/error.h"
#include "placement/plan.h"
#include "placement/plan_diff.h"
#include "placement/plan_explain.h"
#include "placement/plan_json.h"
#include "runtime/abilities.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/session.h"

namespace tandem {
namespace {

struct PlanFlags {
  SessionOptions session;
  std::string folder;  // the model's, without --model
  std::string form = "text";
  bool explain = false;
  std::string old_plan;
};

Plan ReadPlan(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream.is_open()) {
    const bool absent = !std::filesystem::exists(file);
    throw SystemError(fmt::format("{}: {}", file, absent ? "there is no such plan" : "unreadable"),
                      absent ? ExitCode::kMissingFile : ExitCode::kIo);
  }
  return ParsePlan({std::istreambuf_iterator<char>(stream), {}}, file);
}

PlanOptions OptionsOf(const Session& session, const SessionOptions& options) {
  PlanOptions plan;
  plan.precision = options.precision;
  plan.statistics = session.statistics ? &*session.statistics : nullptr;
  plan.abilities = kAbilities;
  return plan;
}

void AddNotes(const PlanOptions& options, Session& session) {
  Plan& plan = session.plan;
  if (!plan.prediction.statistics && session.model.config.n_routed_experts > 0) {
    plan.notes.emplace_back(
        "no routing statistics: routing is taken as uniform (`tandem calibrate`)");
  }
  if (session.machine.rates.origin == RatesOrigin::kAssumed) {
    plan.notes.emplace_back(
        "the rates of this machine are assumed, not measured: `tandem topology --measure`");
  }
  const double now = plan.prediction.time_to_first_token_s;
  const double streamed = StreamedFirstToken(session.model.config, session.model.tensors,
                                             session.machine, session.profile, options, plan);
  if (streamed <= 0 || streamed > 0.9 * now) return;
  plan.notes.push_back(fmt::format(
      "copying cold experts to the device in prefill, which this version does not do, would bring "
      "the first token after {:.2f} s instead of {:.2f} s",
      streamed, now));
}

void PrintText(const Session& session, const std::optional<Explanation>& explanation,
               const std::optional<PlanDiff>& diff) {
  fmt::print("{}", ToText(session.plan));
  if (explanation) fmt::print("\n{}", ToText(*explanation));
  if (diff) fmt::print("\nagainst the old plan:\n{}", ToText(*diff));
}

void PrintPlan(PlanFlags flags) {
  if (!flags.folder.empty()) flags.session.model_dir = flags.folder;
  std::optional<Plan> old_plan;
  if (!flags.old_plan.empty()) old_plan = ReadPlan(flags.old_plan);
  Session session = OpenSession(flags.session);
  const PlanOptions options = OptionsOf(session, flags.session);
  AddNotes(options, session);
  std::optional<Explanation> explanation;
  if (flags.explain) {
    explanation = Explain(session.model.config, session.model.tensors, session.machine,
                          session.profile, options, session.plan);
  }
  std::optional<PlanDiff> diff;
  if (old_plan) diff = Diff(*old_plan, session.plan);
  if (flags.form == "text") return PrintText(session, explanation, diff);
  OrderedJson json = PlanJson(session.plan);
  if (explanation) json["explanation"] = ExplanationJson(*explanation);
  if (diff) json["diff"] = DiffJson(*diff);
  fmt::print("{}{}", flags.form == "json" ? Dump(json) : DumpYaml(json),
             flags.form == "json" ? "\n" : "");
}

}  // namespace

void AddPlanCommand(CLI::App& app, Command& chosen) {
  auto* command =
      app.add_subcommand("plan", "show what would run where and how fast, without loading");
  auto flags = std::make_shared<PlanFlags>();
  command->add_option("MODEL", flags->folder, "the model's folder, as --model");
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  command->get_option("MODEL")->excludes(command->get_option("--model"));
  command->get_option("MODEL")->excludes(command->get_option("--synthetic"));
  AddMachineOption(*command, flags->session);
  AddPlacementOptions(*command, flags->session);
  command->add_option("-o,--output", flags->form, "form of output")
      ->type_name("text|json|yaml")
      ->check(CLI::IsMember({"text", "json", "yaml"}))
      ->capture_default_str();
  command->add_flag("--explain", flags->explain,
                    "say why things are where they are, and what a better machine would bring");
  command->add_option("--diff", flags->old_plan, "compare with a plan written by --output json")
      ->type_name("OLD");
  command->footer(
      "Examples:\n"
      "  tandem plan DeepSeek-V3 --machine server.yaml --explain\n"
      "  tandem plan --synthetic deepseek-v3:dtype=fp8 --device none --output json > old.json\n"
      "  tandem plan --synthetic deepseek-v3:dtype=fp8 --device none --ctx 65536 --diff old.json");
  command->callback([flags, &chosen] { chosen = [flags] { PrintPlan(*flags); }; });
}

}  // namespace tandem
