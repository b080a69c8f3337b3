// ctest: unit
// What `tandem topology` prints, of invented machines and of the one at hand.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>

#include "placement/machine_file.h"
#include "placement/rates_store.h"
#include "runtime/topology_report.h"
#include "tests/placement/invented.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using test::kGiB;

void ExpectWords(const std::string& text, std::initializer_list<std::string_view> words) {
  for (const std::string_view word : words) {
    EXPECT_NE(text.find(word), std::string::npos) << "no '" << word << "' in:\n" << text;
  }
}

Machine Server() {
  Machine machine = test::GpuMachine(24, 768);
  test::AddDevice(machine, "pthread-invented", true, 30 * kGiB, 2 * kGiB);
  machine.nodes[1].package = 1;
  machine.nodes[1].threads_per_core = 2;
  machine.nodes[1].cores = {16, 17, 18, 24};
  machine.nodes[0].free_huge_page_bytes = kGiB;
  machine.distances = {{10, 21}, {21, 10}};
  machine.caches = {{2, 2 << 20, 32, 1}, {3, 60 << 20, 2, 16}};
  machine.devices[0].numa_node = 1;
  machine.devices[0].pci_address = "0000:ca:00.0";
  machine.rates = AssumeRates(machine);
  return machine;
}

TEST(TopologyReport, TheTree) {
  Machine machine = Server();
  machine.cpu_quota = 2.5;
  machine.memlock_limit_bytes = std::numeric_limits<std::uint64_t>::max();
  const std::string text = TopologyText(machine);
  ExpectWords(text,
              {"Machine: Invented CPU", "768.00 GiB, of which this process may use 768.00 GiB",
               "CPU quota: 2.5 cores' worth of time, of 20 cores", "locked memory: no limit",
               "L2 2.00 MiB x 32, L3 60.00 MiB x 2 (16 cores each)", "  package 1\n",
               "16 cores with 1 thread each, PUs 0-15", "4 cores with 2 threads each, PUs 16-18 24",
               "1.00 GiB in reserved huge pages", "its threads run on the cores above",
               "distance from node"});
  // A device stands below the node that its slot hangs on.
  EXPECT_LT(text.find("NUMA node 1"), text.find("device 0: Invented GPU 24G"));
  EXPECT_LT(text.find("device 0:"), text.find("device 1: pthread"));
}

TEST(TopologyReport, ADeviceOfUnknownPlaceAndNoDevice) {
  Machine machine = test::GpuMachine(24);
  ExpectWords(TopologyText(machine), {"device 0:", "the NUMA node of its slot is unknown"});
  machine = test::CpuMachine(1, 4, 8 * kGiB);
  machine.device_problem = "no platform";
  ExpectWords(TopologyText(machine), {"OpenCL: no platform"});
}

TEST(TopologyReport, RatesAndWhereTheyComeFrom) {
  Machine machine = Server();
  std::string text = RatesText(machine, {"device 0: not measured yet"});
  ExpectWords(text, {"ASSUMED", "tandem topology --measure", "device 0: not measured yet",
                     "node  1 thread", "memory of 1", "pinned write", "round trip us",
                     "CPU, 20 threads", "F8_E4M3", "device 1"});
  machine.rates.origin = RatesOrigin::kMeasured;
  machine.rates.when = "2026-11-22 06:40 UTC";
  text = RatesText(machine, {});
  ExpectWords(text, {"Rates: measured 2026-11-22 06:40 UTC"});
  EXPECT_EQ(text.find("ASSUMED"), std::string::npos);
}

// 1 GB of weights in 0.1 s at one row; 2e11 operations in 1 s at 100 rows.
TEST(TopologyReport, KernelRatesAreOfTheLargestWeights) {
  Machine machine = test::CpuMachine(1, 1, 8 * kGiB);
  machine.rates = AssumeRates(machine);
  const RateTable table{{{{1000, 50000}, {20000}, {1, 100}}}, {1e-3, 1e-2, 0.2, 0.5}};
  machine.rates.host.teams = {machine.rates.host.teams.front()};
  machine.rates.host.teams[0].linear = {{DType::kF8E4M3, table}};
  const std::string text = RatesText(machine, {});
  // 1e9 weights of one byte: 5 GB/s, and 2e9 * 100 operations in 0.5 s.
  const std::size_t at = text.find("linear");
  ASSERT_NE(at, std::string::npos) << text;
  ExpectWords(text.substr(at, text.find('\n', at) - at), {"F8_E4M3", " 5.0", " 400", " 100"});
}

TEST(TopologyReport, Ranges) {
  EXPECT_EQ(Ranges({}), "");
  EXPECT_EQ(Ranges({3}), "3");
  EXPECT_EQ(Ranges({0, 1, 2, 4, 6, 7}), "0-2 4 6-7");
}

class TopologyCommand : public testing::Test {
 protected:
  TopologyCommand() { std::filesystem::create_directories(folder_ / "no-vendors"); }

  // The exit code; output in Out().
  int Tandem(const std::string& arguments) const {
    const std::string at = folder_.path().string();
    const std::string command = "XDG_CACHE_HOME=" + at + "/cache OCL_ICD_VENDORS=" + at +
                                "/no-vendors " TANDEM_BINARY " " + arguments + " >" + at +
                                "/out 2>" + at + "/err </dev/null";
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string Out() const { return test::ReadText(folder_ / "out"); }
  std::string Err() const { return test::ReadText(folder_ / "err"); }

  test::TempFolder folder_;
};

TEST_F(TopologyCommand, JsonIsAMachineFile) {
  ASSERT_EQ(Tandem("topology --output json"), 0) << Err();
  const Machine machine = ParseMachine(Out(), "out");
  EXPECT_EQ(MachineJson(machine), Out());
  EXPECT_EQ(machine.rates.origin, RatesOrigin::kAssumed);
  ExpectWords(Err(), {"CPU: not measured yet"});
}

TEST_F(TopologyCommand, MeasuredRatesAreFoundAgain) {
  ASSERT_EQ(Tandem("topology --measure --quick --quiet"), 0) << Err();
  ExpectWords(Out(), {"Rates: measured ", "(quick)"});
  ASSERT_EQ(Tandem("topology"), 0) << Err();
  ExpectWords(Out(), {"Rates: measured ", "(quick)"});
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "cache/tandem/rates")) {
    folder_.Write("cache/tandem/rates/" + entry.path().filename().string(), "{}");
  }
  ASSERT_EQ(Tandem("topology"), 0) << Err();
  ExpectWords(Out(), {"ASSUMED", "checksum"});
}

TEST_F(TopologyCommand, QuickAloneIsAnError) {
  EXPECT_EQ(Tandem("topology --quick"), 2);
  ExpectWords(Err(), {"--quick", "--measure"});
}

TEST_F(TopologyCommand, DoctorWithoutADevice) {
  ASSERT_EQ(Tandem("doctor --no-disk"), 0) << Err();
  ExpectWords(Out(), {"OpenCL", "no device", "instruction sets", "fix: tandem topology --measure"});
  EXPECT_EQ(Tandem("doctor --no-disk --require-device --json"), 69);
  ExpectWords(Out(), {"\"status\": \"fail\"", "\"exit_code\": 69"});
  EXPECT_EQ(Tandem("doctor --disk " + (folder_ / "absent").string()), 66) << Err();
}

}  // namespace
}  // namespace tandem
