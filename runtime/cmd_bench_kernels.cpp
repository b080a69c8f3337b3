#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "runtime/bench_kernels.h"
#include "runtime/choose_device.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"
#include "runtime/table.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kExamples =
    R"(Times every kernel of an OpenCL device, launched back to back as in a step, beside the device's own
limits of the same run: the streaming read before and after, the bare rate of the matrix unit, and a
launch. `share` is of the limit that bounds the kernel; through wgmma more than all of mma.sync can be
reached. Where the device has vendor instructions the generic form stands beside; with --with it is
the same form in other shapes. Weights and keys are read from memory that no cache holds: up to 6 GiB.
Examples:
  tandem bench kernels
  tandem bench kernels --only "linear 7168" --output json
  tandem bench kernels --device 1 --only mla_attention
  tandem bench kernels --only "linear 2048" --with teams=4,wide_rows=2)";

struct KernelFlags {
  std::optional<int> device;
  KernelBenchOptions bench;
  bool json = false;
  bool quiet = false;
};

// Three digits that count: "0.0123", "4.56", "1234".
std::string Short(double value) {
  if (value == 0) return "0";
  const int digits = static_cast<int>(std::floor(std::log10(std::abs(value))));
  return fmt::format("{:.{}f}", value, std::clamp(2 - digits, 0, 6));
}

std::string Rate(const KernelFinding& f) {
  if (f.limit == KernelLimit::kNone) return {};
  if (f.limit == KernelLimit::kMatrix) return Short(f.flops / f.time.seconds * 1e-12) + " TFLOP/s";
  return Short(f.bytes / f.time.seconds * 1e-9) + " GB/s";
}

std::vector<std::string> Cells(const KernelFinding& f) {
  const bool bounded = f.limit != KernelLimit::kNone;
  std::vector<std::string> cells{f.kernel,
                                 f.shape,
                                 f.format,
                                 Short(f.time.seconds * 1e6),
                                 fmt::format("{:.1f} %", 100 * f.time.spread),
                                 Rate(f),
                                 bounded ? fmt::format("{:.1f} %", 100 * f.share) : "",
                                 std::string(Name(f.limit)),
                                 "",
                                 ""};
  if (f.second) {
    cells[8] = Short(f.second->seconds * 1e6);
    cells[9] = fmt::format("{:.2f}", f.second->seconds / f.time.seconds);
  }
  return cells;
}

void PrintLimits(const ClDeviceInfo& device, const TunedShapes& shapes,
                 const KernelLimits& limits) {
  fmt::print("device {}: {}, driver {}; kernel shapes {}\n", device.index, device.name,
             device.driver_version, ToText(shapes));
  const std::string after = limits.read_bytes_per_s_after > 0
                                ? Short(limits.read_bytes_per_s_after * 1e-9) + " GB/s"
                                : "not measured";
  fmt::print("streaming read {} GB/s before, {} after; {} {} TFLOP/s; a launch {} us\n\n",
             Short(limits.read_bytes_per_s_before * 1e-9), after, limits.matrix_unit,
             Short(limits.matrix_flops_per_s * 1e-12), Short(limits.launch_s * 1e6));
}

void PrintOmissions(const char* title, const std::vector<KernelReport::Omission>& list) {
  if (list.empty()) return;
  fmt::print("\n{}:\n", title);
  for (const auto& [what, why] : list) fmt::print("  {}: {}\n", what, why);
}

void PrintText(const ClDeviceInfo& device, const KernelReport& report) {
  PrintLimits(device, report.shapes, report.limits);
  constexpr auto kRight = Table::Align::kRight;
  const bool beside = !report.second.empty();
  Table table({{"kernel"},
               {"shape"},
               {"format"},
               {"us", kRight},
               {"spread", kRight},
               {"rate", kRight},
               {"share", kRight},
               {"of"},
               {beside ? report.second + " us" : "", kRight},
               {beside ? "ratio" : "", kRight}});
  for (const KernelFinding& f : report.findings) table.Add(Cells(f));
  fmt::print("{}", table.ToText());
  PrintOmissions("Left out", report.left_out);
  PrintOmissions("Failed", report.failed);
}

Json ToJson(const TunedShapes& shapes) {
  return {{"changes", shapes.changes}, {"measured", shapes.when}, {"problem", shapes.problem}};
}

Json ToJson(const KernelTime& time) { return {{"seconds", time.seconds}, {"spread", time.spread}}; }

Json ToJson(const KernelFinding& f) {
  Json json = {{"kernel", f.kernel},
               {"shape", f.shape},
               {"format", f.format},
               {"time", ToJson(f.time)},
               {"bytes", f.bytes},
               {"flops", f.flops},
               {"bytes_per_s", f.bytes / f.time.seconds},
               {"flops_per_s", f.flops / f.time.seconds},
               {"limit", Name(f.limit)},
               {"share", f.share},
               {"second", nullptr}};
  if (f.second) {
    json["second"] = ToJson(*f.second);
    json["second"]["ratio"] = f.second->seconds / f.time.seconds;
  }
  return json;
}

Json ToJson(const std::vector<KernelReport::Omission>& list) {
  Json json = Json::array();
  for (const auto& [what, why] : list) json.push_back({{"what", what}, {"why", why}});
  return json;
}

void PrintJson(const ClDeviceInfo& device, const KernelReport& report) {
  const KernelLimits& l = report.limits;
  Json json = {
      {"device",
       {{"index", device.index}, {"name", device.name}, {"driver_version", device.driver_version}}},
      {"version", TANDEM_VERSION},
      {"kernel_shapes", ToJson(report.shapes)},
      {"limits",
       {{"read_bytes_per_s_before", l.read_bytes_per_s_before},
        {"read_bytes_per_s_after", l.read_bytes_per_s_after},
        {"matrix_flops_per_s", l.matrix_flops_per_s},
        {"matrix_unit", l.matrix_unit},
        {"launch_s", l.launch_s}}},
      {"kernels", Json::array()},
      {"left_out", ToJson(report.left_out)},
      {"failed", ToJson(report.failed)},
      {"interrupted", report.interrupted}};
  for (const KernelFinding& f : report.findings) json["kernels"].push_back(ToJson(f));
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void RunBenchKernels(const KernelFlags& flags) {
  const ClDevice device(ChooseClDevice(flags.device));
  const InterruptGuard guard;
  ProgressBar progress(ProgressBar::StyleOf(flags.quiet), stderr, Interrupted);
  const KernelReport report = BenchKernels(device, flags.bench, &progress);
  if (const std::string warning = WarningOf(report.shapes); !warning.empty()) PrintWarning(warning);
  if (!report.findings.empty() || !report.interrupted) {
    flags.json ? PrintJson(device.info(), report) : PrintText(device.info(), report);
  }
  if (report.interrupted) ThrowInterrupted();
  if (report.failed.empty()) return;
  Throw<OpenClError>("{} of {} kernels failed on '{}', the first: {}: {}", report.failed.size(),
                     report.findings.size() + report.failed.size(), device.info().name,
                     report.failed.front().what, report.failed.front().why);
}

}  // namespace

void AddBenchKernelsCommand(CLI::App& bench, Command& chosen) {
  auto* command = bench.add_subcommand("kernels", "measure each kernel of an OpenCL device");
  auto flags = std::make_shared<KernelFlags>();
  command
      ->add_option("--device", flags->device,
                   "index in `tandem devices`; the first that is no CPU if not given")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--only", flags->bench.only,
                   "measure what has this in its kernel, shape and format")
      ->type_name("WORD");
  command
      ->add_option("--with", flags->bench.with,
                   "the same with other shapes beside, for example wide_rows=2,max_rows=4")
      ->type_name("NAME=VALUE")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--quick", flags->bench.quick, "small shapes: whether it works, not how fast");
  AddOutputOption(*command, flags->json);
  command->add_flag("--json", flags->json, "the same as --output json");
  command->add_flag("-q,--quiet", flags->quiet, "no progress");
  command->footer(kExamples);
  command->callback([flags, &bench, &chosen] {
    RefuseFlagsOf(bench, "tandem bench", "tandem bench kernels");
    chosen = [flags] { RunBenchKernels(*flags); };
  });
}

}  // namespace tandem
