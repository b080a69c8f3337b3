#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <memory>
#include <string>

#include "memory/file.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/plan_report.h"
#include "runtime/tune.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Loads the model once, measures the workload, and tries other plans while it runs: the shipped
profiles that fit, then more or fewer experts on the device, roles on the other side, other numbers
of threads and rows. A change is kept if, in three to seven pairs of measurements in alternation, the
median gain is above 2 % and above the median deviation of the pairs. Only what the profile and the flags leave
open is varied. Ctrl-C ends it and keeps the best so far; --resume goes on. `tandem tune kernels`
tries other shapes of the OpenCL kernels instead, and needs no model.
Examples:
  tandem tune --model DIR --for agent --minutes 10 -o agent.yaml
  tandem run --model DIR --profile agent.yaml --prompt "Once upon a time"
  tandem tune --model DIR --resume tune.json -o tuned.yaml
  tandem tune kernels)";

struct TuneFlags {
  SessionOptions session;
  TuneOptions tune;
  bool quiet = false;
};

std::string Today() {
  const std::time_t now = std::time(nullptr);
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(now));
}

const char* EndText(TuneEnd end) {
  switch (end) {
    case TuneEnd::kNothingLeft:
      return "nothing is left to try";
    case TuneEnd::kTime:
      return "the time is over";
    case TuneEnd::kInterrupted:
      return "interrupted";
  }
  return "";
}

void SaveProfile(const std::string& text, const std::string& file) {
  AtomicFileWriter writer(file);
  writer.Write(text);
  writer.Commit();
}

std::string Speed(const BenchOptions& work, const PhaseSeconds& s) {
  const auto sequences = static_cast<double>(work.sequences);
  return fmt::format("prefill {:.1f}, decode {:.2f} tokens/s",
                     sequences * static_cast<double>(work.prompt_tokens) / s.prefill,
                     sequences * static_cast<double>(work.gen_tokens) / s.decode);
}

void PrintEnd(const TuneFlags& flags, const TuneResult& result) {
  fmt::print("{}; {} trials\n", EndText(result.end), result.trials.size());
  if (!result.total.ratios.empty()) {
    fmt::print("start: {}\n", Speed(result.work, result.start_s));
    fmt::print("now:   {}\n", Speed(result.work, result.best_s));
    fmt::print("against the start, in alternation: {:+.1f} % (spread {:.1f} %)\n",
               100 * (result.total.median() - 1), 100 * result.total.spread());
  }
  fmt::print("profile: {}\n", flags.tune.output);
}

void Tune(const TuneFlags& flags) {
  Session session = OpenSession(flags.session);
  PlanOptions options;
  options.precision = flags.session.precision;
  options.statistics = session.statistics ? &*session.statistics : nullptr;
  options.abilities = flags.session.abilities;
  const InterruptGuard guard;
  Engine engine = LoadEngine(session, flags.quiet);
  const auto say = [&](const std::string& line) {
    if (flags.quiet) return;
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  Tuner tuner(session, engine, flags.tune, options, say, Interrupted);
  const TuneResult result = tuner.Run();
  SaveProfile(TunedProfile(session, engine, result, Today()), flags.tune.output);
  if (!flags.quiet) PrintEnd(flags, result);
  PrintPlanReport(flags.session, session, engine);
}

}  // namespace

void AddTuneCommand(CLI::App& app, Command& chosen) {
  constexpr double kMostMinutes = 24 * 60;
  auto* command = app.add_subcommand("tune", "find a faster placement by trying");
  auto flags = std::make_shared<TuneFlags>();
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  command->add_option("--minutes", flags->tune.minutes, "how long to try")
      ->type_name("X")
      ->check(CLI::Range(0.01, kMostMinutes))
      ->capture_default_str();
  command->add_option("-o,--out", flags->tune.output, "profile to write")
      ->type_name("FILE")
      ->capture_default_str();
  command
      ->add_option("--resume", flags->tune.state,
                   "keep what was tried in this file, and go on from it if it is there")
      ->type_name("FILE");
  AddPlacementOptions(*command, flags->session);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no table");
  command->footer(kExamples);
  AddTuneKernelsCommand(*command, chosen);
  // Runs after the callback of `kernels`, too.
  command->callback([flags, command, &chosen] {
    if (command->get_subcommands().empty()) chosen = [flags] { Tune(*flags); };
  });
}

}  // namespace tandem
