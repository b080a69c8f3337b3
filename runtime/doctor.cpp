#include "runtime/doctor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr Seconds kKernelTest{10};

const char* NameOf(Health health) {
  if (health == Health::kOk) return "ok";
  return health == Health::kWarn ? "warn" : "FAIL";
}

Finding DiskOf(const std::string& path) {
  if (!path.empty()) return CheckDisk(path);
  Finding f = CheckDisk(".");  // nobody asked for this folder: it may well be read-only
  if (f.health == Health::kFail) f.health = Health::kWarn;
  return f;
}

}  // namespace

std::vector<Finding> Examine(const DoctorOptions& options) {
  const Machine machine = ReadMachine(ProbeDevices::kYes);
  const auto may_open = [](const std::string& path) {
    return access(path.c_str(), R_OK | W_OK) == 0;
  };
  std::vector<Finding> findings = {CheckOpenCl(machine, options.require_device),
                                   CheckDeviceFiles("", may_open)};
  for (const Device& device : machine.devices) {
    if (!device.shares_cores) findings.push_back(CheckPcie(device, ""));
  }
  for (const ClDeviceInfo& device : ProbeClDevices().devices) {
    findings.push_back(CheckShapes(device));
  }
  for (Finding& f : std::vector<Finding>{
           CheckInstructionSets(), CheckCores(machine, ""), CheckCpuQuota(machine),
           CheckGovernor(""), CheckMemory(machine), CheckCgroupMemory(""), CheckHugePages(""),
           CheckReservedPages(machine), CheckMemlock(machine, ""), CheckNumaBalancing(machine, ""),
           CheckSwap(""), CheckCacheFolder(), CheckRates(machine)}) {
    findings.push_back(std::move(f));
  }
  if (options.kernels)
    std::ranges::move(CheckKernels(WholeScope(), kKernelTest, options.progress),
                      std::back_inserter(findings));
  if (options.disk) findings.push_back(DiskOf(options.disk_path));
  return findings;
}

std::string ToText(const std::vector<Finding>& findings) {
  std::size_t width = 0;
  for (const Finding& f : findings) width = std::max(width, f.name.size());
  std::string text;
  for (const Finding& f : findings) {
    text += fmt::format("{:<4}  {:<{}}  {}\n", NameOf(f.health), f.name, width, f.found);
    if (f.health == Health::kOk) continue;
    const std::string indent(width + 8, ' ');
    if (!f.expected.empty()) text += fmt::format("{}expected: {}\n", indent, f.expected);
    if (!f.fix.empty()) text += fmt::format("{}fix: {}\n", indent, f.fix);
  }
  const auto warnings = std::ranges::count(findings, Health::kWarn, &Finding::health);
  const auto failures = std::ranges::count(findings, Health::kFail, &Finding::health);
  return text + fmt::format("{} checks, {} warning{}, {} failure{}\n", findings.size(), warnings,
                            warnings == 1 ? "" : "s", failures, failures == 1 ? "" : "s");
}

std::string ToJson(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& f : findings) {
    const char* status = f.health == Health::kFail ? "fail" : NameOf(f.health);
    list.push_back({{"name", f.name},
                    {"status", status},
                    {"found", f.found},
                    {"expected", f.expected},
                    {"fix", f.fix}});
  }
  const Json json = {{"exit_code", static_cast<int>(CodeOf(findings))},
                     {"findings", std::move(list)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ExitCode CodeOf(const std::vector<Finding>& findings) {
  const auto failure = std::ranges::find(findings, Health::kFail, &Finding::health);
  return failure == findings.end() ? ExitCode::kOk : failure->code;
}

}  // namespace tandem
