// ctest: unit
// Each check against a made-up /proc, /sys and /dev.
#include "runtime/doctor.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/placement/invented.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using test::kGiB;
using test::kMiB;

class Doctor : public testing::Test {
 protected:
  std::string Root() const { return root_.path().string(); }
  void Write(const std::string& path, const std::string& text) const { root_.Write(path, text); }

  // The health, a word of what was found, and a fix wherever something is wrong.
  static void Expect(const Finding& f, Health health, const std::string& word) {
    EXPECT_EQ(static_cast<int>(f.health), static_cast<int>(health)) << f.name << ": " << f.found;
    EXPECT_NE(f.found.find(word), std::string::npos) << "no '" << word << "' in: " << f.found;
    EXPECT_EQ(f.health == Health::kOk, f.expected.empty()) << f.name;
    EXPECT_TRUE(f.health != Health::kFail || f.code != ExitCode::kOk) << f.name;
  }

  test::TempFolder root_;
};

TEST_F(Doctor, Memory) {
  Machine machine = test::CpuMachine(1, 4, 32 * kGiB);
  Expect(CheckMemory(machine), Health::kOk, "32.00 GiB");
  machine.memory_limit_bytes = 2 * kGiB;
  Expect(CheckMemory(machine), Health::kWarn, "2.00 GiB");
  machine.memory_limit_bytes = 512 * kMiB;
  const Finding f = CheckMemory(machine);
  Expect(f, Health::kFail, "512.00 MiB");
  EXPECT_EQ(f.code, ExitCode::kOsLimit);
}

TEST_F(Doctor, CgroupMemory) {
  Write("proc/meminfo", "MemTotal: 16777216 kB\n");
  Expect(CheckCgroupMemory(Root()), Health::kOk, "none");
  Write("proc/self/cgroup", "0::/job\n");
  Write("sys/fs/cgroup/job/memory.max", "4294967296\n");
  Expect(CheckCgroupMemory(Root()), Health::kWarn, "4.00 GiB of the machine's 16.00 GiB");
  Write("sys/fs/cgroup/job/memory.max", "17179869184\n");
  Expect(CheckCgroupMemory(Root()), Health::kOk, "16.00 GiB");
}

TEST_F(Doctor, CoresAndQuota) {
  Machine machine = test::CpuMachine(2, 4, 32 * kGiB);
  Write("sys/devices/system/cpu/online", "0-7\n");
  Expect(CheckCores(machine, Root()), Health::kOk, "8 cores on 2 NUMA nodes");
  Write("sys/devices/system/cpu/online", "0-3,5,8-15\n");
  Expect(CheckCores(machine, Root()), Health::kWarn, "8 of 13 hardware threads");
  Expect(CheckCpuQuota(machine), Health::kOk, "none");
  machine.cpu_quota = 2.5;
  Expect(CheckCpuQuota(machine), Health::kWarn, "2.5 cores' worth of time for 8 cores");
  machine.cpu_quota = 8;
  Expect(CheckCpuQuota(machine), Health::kOk, "8 cores' worth");
}

TEST_F(Doctor, HugePages) {
  const std::string path = "sys/kernel/mm/transparent_hugepage/enabled";
  Expect(CheckHugePages(Root()), Health::kWarn, "the kernel has none");
  Write(path, "always madvise [never]\n");
  Expect(CheckHugePages(Root()), Health::kWarn, "never");
  EXPECT_NE(CheckHugePages(Root()).fix.find("echo madvise"), std::string::npos);
  Write(path, "always [madvise] never\n");
  Expect(CheckHugePages(Root()), Health::kOk, "madvise");
  Machine machine = test::CpuMachine(2, 4, 32 * kGiB);
  Expect(CheckReservedPages(machine), Health::kOk, "0 B");
  machine.nodes[1].free_huge_page_bytes = 8 * kGiB;
  Expect(CheckReservedPages(machine), Health::kWarn, "8.00 GiB");
}

TEST_F(Doctor, Memlock) {
  Machine machine = test::CpuMachine(1, 4, 32 * kGiB);
  machine.memlock_limit_bytes = std::numeric_limits<std::uint64_t>::max();
  Expect(CheckMemlock(machine, Root()), Health::kOk, "no limit");
  machine.memlock_limit_bytes = 8 * kMiB;
  Expect(CheckMemlock(machine, Root()), Health::kWarn, "8.00 MiB");
  Write("proc/self/status", "Name: x\nCapEff:\t0000000000004000\n");
  Expect(CheckMemlock(machine, Root()), Health::kOk, "CAP_IPC_LOCK");
  Write("proc/self/status", "Name: x\nCapEff:\t0000000000000000\n");
  Expect(CheckMemlock(machine, Root()), Health::kWarn, "8.00 MiB");
}

TEST_F(Doctor, NumaBalancing) {
  const Machine one = test::CpuMachine(1, 4, 32 * kGiB);
  const Machine two = test::CpuMachine(2, 4, 32 * kGiB);
  Expect(CheckNumaBalancing(two, Root()), Health::kOk, "not in this kernel");
  Write("proc/sys/kernel/numa_balancing", "1\n");
  Expect(CheckNumaBalancing(two, Root()), Health::kWarn, "on");
  Expect(CheckNumaBalancing(one, Root()), Health::kOk, "one node only");
  Write("proc/sys/kernel/numa_balancing", "0\n");
  Expect(CheckNumaBalancing(two, Root()), Health::kOk, "off");
}

TEST_F(Doctor, Governor) {
  Expect(CheckGovernor(Root()), Health::kOk, "not visible");
  Write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
  Expect(CheckGovernor(Root()), Health::kOk, "performance on 1 CPUs");
  Write("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
  Expect(CheckGovernor(Root()), Health::kWarn, "performance on 1 CPUs, powersave on 1 CPUs");
}

TEST_F(Doctor, Swap) {
  Expect(CheckSwap(Root()), Health::kOk, "none");
  Write("proc/meminfo", "SwapCached: 1 kB\nSwapTotal: 4194304 kB\nSwapFree: 4194304 kB\n");
  Expect(CheckSwap(Root()), Health::kOk, "0 B of 4.00 GiB");
  Write("proc/meminfo", "SwapTotal: 4194304 kB\nSwapFree: 1048576 kB\n");
  Expect(CheckSwap(Root()), Health::kWarn, "3.00 GiB of 4.00 GiB");
}

TEST_F(Doctor, InstructionSets) {
  ::unsetenv("TANDEM_FORCE_ISA");
  const Finding best = CheckInstructionSets();
  EXPECT_NE(best.found.find("chosen of ref"), std::string::npos) << best.found;
  ::setenv("TANDEM_FORCE_ISA", "ref", 1);
  Expect(CheckInstructionSets(), Health::kWarn, "ref chosen");
  ::setenv("TANDEM_FORCE_ISA", "nonsense", 1);
  Expect(CheckInstructionSets(), Health::kFail, "nonsense");
  EXPECT_EQ(CheckInstructionSets().code, ExitCode::kConfig);
  ::unsetenv("TANDEM_FORCE_ISA");
}

TEST_F(Doctor, OpenClDevices) {
  Machine machine = test::GpuMachine(24);
  Expect(CheckOpenCl(machine, true), Health::kOk, "0: Invented GPU 24G (24.00 GiB)");
  machine.device_problem = "an OpenCL driver crashed while devices were listed";
  Expect(CheckOpenCl(machine, true), Health::kWarn, "crashed");
  machine.devices.clear();
  Expect(CheckOpenCl(machine, false), Health::kWarn, "no device");
  const Finding f = CheckOpenCl(machine, true);
  Expect(f, Health::kFail, "no device; an OpenCL driver crashed");
  EXPECT_EQ(f.code, ExitCode::kUnavailable);
}

TEST_F(Doctor, DeviceFiles) {
  const auto all = [](const std::string&) { return true; };
  Expect(CheckDeviceFiles(Root(), all), Health::kOk, "no GPU under /dev");
  Write("dev/dri/renderD128", "");
  Write("dev/dri/card0", "");
  Write("dev/nvidia0", "");
  Write("dev/null", "");
  Expect(CheckDeviceFiles(Root(), all), Health::kOk, "2 under /dev may be opened");
  const auto no_render = [](const std::string& path) { return path.find("render") == path.npos; };
  Expect(CheckDeviceFiles(Root(), no_render), Health::kWarn,
         "no permission for /dev/dri/renderD128");
}

TEST_F(Doctor, Pcie) {
  Device device;
  Expect(CheckPcie(device, Root()), Health::kOk, "not visible");
  device.pci_address = "0000:CA:00.0";
  const std::string folder = "sys/bus/pci/devices/0000:ca:00.0/";
  Write(folder + "current_link_width", "16\n");
  Write(folder + "max_link_width", "16\n");
  Write(folder + "current_link_speed", "2.5 GT/s PCIe\n");
  Write(folder + "max_link_speed", "16.0 GT/s PCIe\n");
  Expect(CheckPcie(device, Root()), Health::kOk, "16 lanes of 16 at 2.5 GT/s PCIe (16.0 GT/s");
  Write(folder + "current_link_width", "4\n");
  const Finding f = CheckPcie(device, Root());
  Expect(f, Health::kWarn, "4 lanes of 16");
  EXPECT_NE(f.expected.find("25 %"), std::string::npos) << f.expected;
}

TEST_F(Doctor, CacheFolderAndRates) {
  ::setenv("XDG_CACHE_HOME", (Root() + "/cache").c_str(), 1);
  Expect(CheckCacheFolder(), Health::kOk, "/cache/tandem");
  const Machine machine = test::GpuMachine(24);
  Expect(CheckRates(machine), Health::kWarn, "CPU: not measured yet; device 0: not measured yet");
  Write("file", "");
  ::setenv("XDG_CACHE_HOME", (Root() + "/file").c_str(), 1);
  Expect(CheckCacheFolder(), Health::kWarn, "cannot be written");
  ::unsetenv("XDG_CACHE_HOME");
}

TEST_F(Doctor, DiskOfAFileAndOfAFolder) {
  Write("model/small", std::string(3 << 20, 'x'));
  Finding f = CheckDisk(Root() + "/model/small");
  EXPECT_NE(f.found.find("GB/s (3.00 MiB of "), std::string::npos) << f.found;
  f = CheckDisk(Root() + "/model");
  EXPECT_NE(f.found.find("64.00 MiB of a temporary file"), std::string::npos) << f.found;
  int files = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(Root() + "/model")) {
    ++files;
  }
  EXPECT_EQ(files, 1) << "the temporary file is still there";
  f = CheckDisk(Root() + "/absent");
  Expect(f, Health::kFail, "absent");
  EXPECT_EQ(f.code, ExitCode::kMissingFile);
  Write("empty", "");
  Expect(CheckDisk(Root() + "/empty"), Health::kFail, "empty");
}

TEST(DoctorReport, TextJsonAndCode) {
  const std::vector<Finding> findings = {
      {"one", Health::kOk, "fine", "", "", ExitCode::kOk},
      {"longer name", Health::kWarn, "so", "such", "do this", ExitCode::kOk},
      {"two", Health::kFail, "bad \xff", "good", "", ExitCode::kOsLimit}};
  EXPECT_EQ(ToText(findings),
            "ok    one          fine\n"
            "warn  longer name  so\n"
            "                   expected: such\n"
            "                   fix: do this\n"
            "FAIL  two          bad \xff\n"
            "                   expected: good\n"
            "3 checks, 1 warning, 1 failure\n");
  const auto json = nlohmann::json::parse(ToJson(findings));
  EXPECT_EQ(json["exit_code"], 71);
  EXPECT_EQ(json["findings"][1]["status"], "warn");
  EXPECT_EQ(json["findings"][2]["status"], "fail");
  EXPECT_EQ(CodeOf({findings[0], findings[1]}), ExitCode::kOk);
}

}  // namespace
}  // namespace tandem
