#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "memory/error.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/doctor.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Looks at what makes a run slow or fail, and prints for each finding what was found and the
command that fixes it. Nothing of the system is changed. OpenCL drivers are looked at in a child
process, so that one that crashes is a finding. The disk check reads up to 256 MiB of the largest
file in the folder, past the page cache where the file system can; if none has 64 MiB, it writes a
temporary one of that size. --gpu runs every kernel on every OpenCL device, in every format of
weights and of the KV cache, and compares with the CPU: 10 seconds a device and more, most of it
compiling. Loading a model does the same once for what that model uses.
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
};

void RunDoctor(const DoctorFlags& flags) {
  const std::vector<Finding> findings = Examine(flags.doctor);
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
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { RunDoctor(*flags); }; });
}

}  // namespace tandem
