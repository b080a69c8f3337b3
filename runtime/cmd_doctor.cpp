#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory/error.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/doctor.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Looks at what makes a run slow or fail, and prints for each finding what was found and the
command that fixes it. Nothing of the system is changed. OpenCL drivers are looked at in a child
process, so that one that crashes is a finding. The disk check reads up to 256 MiB of the largest
file in the folder, past the page cache where the file system can; if none has 64 MiB, it writes a
temporary one of that size. --gpu runs every kernel on every OpenCL device, in every format of
weights and of the KV cache, and compares with the CPU, for 10 seconds a device, or once where that
takes longer: the first time programs are compiled, a minute and more. It says what it is at, and
Ctrl-C ends it. Loading a model does the same once for what that model uses.
Exit codes: 0 nothing failed (warnings are no failure), 69 no OpenCL device and --require-device, or
a device that computes wrong numbers or does not run a kernel (--gpu), 71 too little memory, 66 or
74 no such file for --disk or it cannot be read, 78 TANDEM_FORCE_ISA cannot be used.
Examples:
  tandem doctor --disk /models/DeepSeek-V2-Lite
  tandem doctor --no-disk --require-device --json
  tandem doctor --no-disk --gpu)";

struct DoctorFlags {
  DoctorOptions doctor;
  bool json = false;
  bool quiet = false;
};

// Where no line can be redrawn each part says that it begins: a program may take a while to
// compile.
class StageLines final : public ProgressSink {
 public:
  void Begin(std::string_view what, std::uint64_t) override {
    fmt::print(stderr, "tandem: {}\n", what);
    std::fflush(stderr);
  }
  void Update(std::uint64_t) override {}
  void End() override {}
  bool Cancelled() const override { return Interrupted(); }
};

std::vector<Finding> ExamineAll(const DoctorFlags& flags) {
  if (!flags.doctor.kernels) return Examine(flags.doctor);
  const InterruptGuard guard;
  StageLines lines;
  const ProgressBar::Style style = ProgressBar::StyleOf(flags.quiet);
  ProgressBar bar(style, stderr, Interrupted);
  DoctorOptions options = flags.doctor;
  options.progress =
      style == ProgressBar::Style::kPlain ? static_cast<ProgressSink*>(&lines) : &bar;
  std::vector<Finding> findings = Examine(options);
  if (Interrupted()) ThrowInterrupted();
  return findings;
}

void RunDoctor(const DoctorFlags& flags) {
  const std::vector<Finding> findings = ExamineAll(flags);
  fmt::print("{}", flags.json ? ToJson(findings) : ToText(findings));
  const auto failure = std::ranges::find(findings, Health::kFail, &Finding::health);
  if (failure != findings.end()) {
    throw Error(CodeOf(findings), fmt::format("doctor: {}: {}", failure->name, failure->found));
  }
}

}  // namespace

void AddDoctorCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("doctor", "what makes runs slow or fail here, and the fixes");
  auto flags = std::make_shared<DoctorFlags>();
  command->add_flag("--json", flags->json, "findings as JSON");
  AddOutputOption(*command, flags->json);
  command->add_flag("--require-device", flags->doctor.require_device,
                    "no usable OpenCL device is a failure, not a warning");
  command->add_flag("--gpu", flags->doctor.kernels,
                    "run every kernel on every OpenCL device and compare with the CPU");
  command->add_option("--disk", flags->doctor.disk_path, "file or folder whose disk is read")
      ->type_name("PATH")
      ->default_str(".");
  command->add_flag("!--no-disk", flags->doctor.disk, "skip the disk");
  command->add_flag("-q,--quiet", flags->quiet, "no progress of --gpu");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { RunDoctor(*flags); }; });
}

}  // namespace tandem
