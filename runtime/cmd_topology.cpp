#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "placement/machine_file.h"
#include "placement/rates_store.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/measure.h"
#include "runtime/progress_bar.h"
#include "runtime/topology_report.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Shows packages, NUMA nodes, cores, caches, memory, limits and OpenCL devices, and what they
do per second. Rates are those of the last --measure here (CPU side and each device apart), kept in
$XDG_CACHE_HOME/tandem/rates or ~/.cache/tandem/rates, else assumed ones. Plans are made from them:
measure once, and again after a new driver or a change of memory, on an otherwise idle machine.
Each rate is wall time over work; docs/machine_file.md says what each one is.
The JSON is a machine file: `tandem plan --machine FILE` plans for that machine anywhere.
Examples:
  tandem topology --measure
  tandem topology --output json > server.json)";

struct TopologyFlags {
  bool measure = false;
  bool quick = false;
  bool json = false;
  bool quiet = false;
};

// Devices that could not be measured keep assumed rates.
void FillGaps(Machine& machine) {
  for (const Device& device : machine.devices) {
    std::vector<DeviceRates>& rates = machine.rates.devices;
    if (std::ranges::find(rates, device.index, &DeviceRates::index) != rates.end()) continue;
    rates.push_back(AssumeDeviceRates(machine, device));
    machine.rates.origin = RatesOrigin::kAssumed;
  }
}

// Why some rates are assumed.
std::vector<std::string> Measure(Machine& machine, const TopologyFlags& flags) {
  MeasureOptions options;
  options.quick = flags.quick;
  const InterruptGuard guard;
  ProgressBar progress(ProgressBar::StyleOf(flags.quiet), stderr, Interrupted);
  Measurement measured = MeasureRates(machine, options, &progress);
  machine.rates = std::move(measured.rates);
  if (flags.quick) machine.rates.when += " (quick)";
  const std::string folder = RatesFolder().string();
  const std::string problem = StoreRates(folder, machine);
  if (!problem.empty()) {
    fmt::print(stderr, "tandem: warning: the rates are not stored: {}\n", problem);
  } else if (!flags.quiet) {
    fmt::print(stderr, "tandem: stored in {}\n", folder);
  }
  FillGaps(machine);
  return std::move(measured.problems);
}

void ShowTopology(const TopologyFlags& flags) {
  if (flags.quick && !flags.measure) throw UsageError("--quick goes with --measure");
  Machine machine = ReadMachine(ProbeDevices::kYes);
  std::vector<std::string> why;
  if (flags.measure) {
    why = Measure(machine, flags);
  } else {
    // The rates are in the machine already; this tells why some are not.
    static_cast<void>(LoadRates(RatesFolder(), machine, why));
  }
  if (flags.json) {
    fmt::print("{}", MachineJson(machine));
    for (const std::string& reason : why) fmt::print(stderr, "tandem: note: {}\n", reason);
    return;
  }
  fmt::print("{}\n{}", TopologyText(machine), RatesText(machine, why));
}

}  // namespace

void AddTopologyCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("topology", "this machine: cores, memory, devices, rates");
  auto flags = std::make_shared<TopologyFlags>();
  command->add_flag("--measure", flags->measure,
                    "measure the rates, about a minute, and keep them");
  command->add_flag("--quick", flags->quick, "with --measure: coarser, in seconds");
  AddOutputOption(*command, flags->json);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no note");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { ShowTopology(*flags); }; });
}

}  // namespace tandem
