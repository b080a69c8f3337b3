// ctest: unit
#include "placement/machine_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "invented.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using test::kGiB;
using testing::ElementsAre;

Machine WithEverything() {
  Machine machine = test::GpuMachine(24, 768);
  test::AddDevice(machine, "pthread \"quoted\" \\ \xC3\xA9\t#: {x}", true, 30 * kGiB, 2 * kGiB);
  machine.cpu_name = "- 'CPU': [1]";
  machine.memlock_limit_bytes = std::numeric_limits<std::uint64_t>::max();
  machine.cpu_quota = 12.3;
  machine.memory_bytes = MemoryBytes(machine) + 5 * kGiB;  // more than the nodes tell
  machine.caches = {{1, 48 << 10, 32, 1}, {3, 60 << 20, 2, 16}};
  machine.distances = {{10, 21}, {21, 10}};
  machine.nodes[1].package = 1;
  machine.nodes[1].threads_per_core = 2;
  machine.nodes[1].free_huge_page_bytes = 3 * kGiB;
  machine.devices[0].pci_address = "0000:18:00.0";
  machine.devices[0].numa_node = 1;
  machine.devices[0].driver_version = "1e5";
  machine.devices[0].compute_units = 132;
  machine.rates = AssumeRates(machine);
  machine.rates.origin = RatesOrigin::kMeasured;
  machine.rates.when = "2026-11-22 06:40 UTC";
  machine.rates.host.teams[0].value_s = 1.0 / 3;
  return machine;
}

void ExpectReadBack(const Machine& machine) {
  const std::string json = MachineJson(machine);
  const Machine again = ParseMachine(json, "m.json");
  EXPECT_EQ(MachineJson(again), json);
  EXPECT_EQ(Fingerprint(again), Fingerprint(machine));
  EXPECT_EQ(again.rates.host.teams.size(), machine.rates.host.teams.size());
}

TEST(MachineFile, TheWholeFormIsReadBackUnchanged) {
  ExpectReadBack(WithEverything());
  Machine eight = test::CpuMachine(8, 12, 2048 * kGiB);
  eight.rates = AssumeRates(eight);
  ExpectReadBack(eight);
  ExpectReadBack(ReadMachine(ProbeDevices::kNo));
}

TEST(MachineFile, NamesAndNumbersKeepTheirValues) {
  const Machine before = WithEverything();
  const Machine after = ParseMachine(MachineJson(before), "m.json");
  EXPECT_EQ(after.cpu_name, before.cpu_name);
  EXPECT_EQ(after.devices[1].name, before.devices[1].name);
  EXPECT_EQ(after.devices[0].driver_version, "1e5");
  EXPECT_EQ(after.memlock_limit_bytes, before.memlock_limit_bytes);
  EXPECT_EQ(after.rates.origin, RatesOrigin::kMeasured);
  EXPECT_EQ(after.rates.host.teams[0].value_s, 1.0 / 3);
  EXPECT_EQ(after.rates.devices[0].linear.at(DType::kBF16).seconds,
            before.rates.devices[0].linear.at(DType::kBF16).seconds);
}

TEST(MachineFile, TheLeastThatIsEnough) {
  const Machine m = ParseMachine("nodes: [{cores: 4, memory: 8 GiB}]", "m.yaml");
  ASSERT_EQ(m.nodes.size(), 1U);
  EXPECT_THAT(m.nodes[0].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(m.memory_limit_bytes, 8 * kGiB);
  EXPECT_FALSE(m.device_problem.empty());
  EXPECT_EQ(m.rates.origin, RatesOrigin::kAssumed);
  EXPECT_EQ(m.rates.host.teams.back().threads, 4);
}

TEST(MachineFile, FiguresOfTheShortForm) {
  const Machine m = ParseMachine(
      "nodes:\n- {count: 2, cores: 8, memory: 64 GiB, read_gb_per_s: 100, thread_read_gb_per_s: 20,"
      " gflops_per_core: 50}\n- {cores: 2, memory: 1 GiB}\nbetween_gb_per_s: 30\n"
      "devices:\n- {name: a, memory: 8 GiB, read_gb_per_s: 500, gflops: 2000, pcie_gb_per_s: 4,"
      " launch_us: 5, round_trip_us: 20, numa_node: 1}\n- {name: b, memory: 4 GiB}\n",
      "m.yaml");
  ASSERT_EQ(m.nodes.size(), 3U);
  EXPECT_EQ(m.nodes[1].os_index, 1);
  EXPECT_EQ(m.nodes[1].cores.front(), 8);
  EXPECT_EQ(m.nodes[2].cores.front(), 16);
  EXPECT_EQ(m.memory_limit_bytes, 129 * kGiB);
  EXPECT_EQ(m.rates.origin, RatesOrigin::kFile);
  EXPECT_DOUBLE_EQ(m.rates.host.nodes[1].read.front().bytes_per_s, 20e9);
  EXPECT_DOUBLE_EQ(m.rates.host.nodes[1].read.back().bytes_per_s, 100e9);
  EXPECT_DOUBLE_EQ(m.rates.host.between[0][1], 30e9);
  ASSERT_EQ(m.rates.devices.size(), 2U);
  const DeviceRates& a = m.rates.devices[0];
  EXPECT_DOUBLE_EQ(a.read_bytes_per_s, 500e9);
  EXPECT_DOUBLE_EQ(a.gemm_flops, 2e12);
  EXPECT_DOUBLE_EQ(a.pinned_write_bytes_per_s, 4e9);
  EXPECT_DOUBLE_EQ(a.pageable_read_bytes_per_s, 4e9);  // never above pinned
  EXPECT_DOUBLE_EQ(a.launch_s, 5e-6);
  EXPECT_DOUBLE_EQ(a.round_trip_s, 20e-6);
  EXPECT_EQ(m.devices[0].numa_node, 1);
  EXPECT_EQ(m.devices[1].index, 1);
  EXPECT_EQ(m.devices[1].max_alloc_bytes, kGiB);
}

struct BadFile {
  const char* text;
  std::initializer_list<std::string_view> words;
};

TEST(MachineFile, ErrorsNameThePlaceAndTheWayOut) {
  for (const BadFile& bad : std::initializer_list<BadFile>{
           {"", {"m.yaml:1:1", "expected a map"}},
           {"cpu: x", {"m.yaml:1:1", "'nodes' is missing"}},
           {"nodes: []", {"m.yaml:1:8", "'nodes'", "at least one core"}},
           {"nodes: [{cores: 0, memory: 1 GiB}]", {"at least one core"}},
           {"nodes: [{memory: 1 GiB}]", {"m.yaml:1:9", "nodes[0]", "'cores' is missing"}},
           {"nodes: [{cores: 4}]", {"'memory' is missing"}},
           {"nodes:\n- cores: 4\n  memory: lots", {"m.yaml:3:11", "nodes[0].memory", "24 GiB"}},
           {"nodes: [{cores: 4, memory: 0}]", {"more than 0"}},
           {"nodes: [{cores: 4, memory: 1 TiB, gflops_per_cor: 4}]",
            {"gflops_per_cor", "did you mean 'gflops_per_core'"}},
           {"nodes: [{cores: 4, memory: 17179869184 TiB}]", {"nodes[0].memory"}},
           {"nodes: [{cores: 4, memory: 2000 TiB}]", {"1024 TiB"}},
           {"nodes: [{cores: 99999, memory: 1 GiB}]", {"from 0 to 4096"}},
           {"nodes: [{cores: -1, memory: 1 GiB}]", {"whole number"}},
           {"nodes: [{cores: 2.5, memory: 1 GiB}]", {"whole number"}},
           {"nodes: [{cores: [0, 0], memory: 1 GiB}]", {"core 0 is there twice"}},
           {"nodes: [{count: 1000000, cores: 4, memory: 1 GiB}]", {"from 1 to 256"}},
           {"nodes: [{count: 2, cores: [1], memory: 1 GiB}]", {"'count' goes with a number"}},
           {"nodes: [{cores: 1, memory: 1 GiB, os_index: 3}, {cores: 1, memory: 1 GiB}]",
            {"ascending 'os_index'"}},
           {"nodes: [{cores: 4, memory: 1 GiB, read_gb_per_s: .nan}]", {"a number from"}},
           {"nodes: [{cores: 4, memory: 1 GiB, read_gb_per_s: nan}]", {"a number from"}},
           {"nodes: [{cores: 4, memory: 1 GiB, read_gb_per_s: 0}]", {"a number from"}},
           {"nodes: [{cores: 4, memory: 1 GiB, read_gb_per_s: -5}]", {"a number from"}},
           {"nodes: [{cores: 4, memory: 1 GiB, read_gb_per_s: 1e308}]", {"a number from"}},
           {"nodes: [{cores: 4, memory: 1 GiB, read_gb_per_s: '100'}]", {"a number from"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\ndevices: [{memory: 1 GiB}]",
            {"m.yaml:2:11", "'name' is missing"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\ndevices: [{name: a, memory: 1 GiB, index: 1}]",
            {"devices[0].index", "as they are listed"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\ndevices: [{name: a, memory: 1 GiB, numa_node: 4}]",
            {"devices[0].numa_node", "'os_index' of a node"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\ndistances: [[10, 20]]", {"distances[0]"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\ndistances: [[10], [10]]", {"1 rows"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\nrates: {origin: guess}", {"rates.origin"}},
           {"nodes: [{cores: 4, memory: 1 GiB}]\nrates: {origin: file, host: {nodes: [], between: "
            "[], teams: []}, devices: []}",
            {"'rates'", "the machine has 1"}},
           {"nodes: [{cores: 4, memory: 1 GiB, gflops_per_core: 5}]\nrates: {}",
            {"gflops_per_core", "one or the other"}},
           {"format: 2\nnodes: [{cores: 4, memory: 1 GiB}]", {"m.yaml:1:9", "'format'"}},
           {"nodes: &a [*a]", {"m.yaml:1"}},
           {"nodes: [", {"m.yaml:1", "YAML"}},
           {"{\"nodes\": [{\"cores\": 4, \"memory\": \"1 GB\"}]}", {"nodes[0].memory"}},
       }) {
    SCOPED_TRACE(bad.text);
    test::ExpectError<ConfigError>(ExitCode::kConfig, bad.words,
                                   [&] { ParseMachine(bad.text, "m.yaml"); });
  }
}

// Every damage of a whole file is an error of ours or a machine that can be planned for.
TEST(MachineFile, DamagedFilesNeverGiveBadNumbers) {
  Machine machine = test::GpuMachine(24);
  machine.rates = AssumeRates(machine);
  const auto small = RateTable{{{{1, 8}, {2}, {3}}}, {1e-5, 2e-4}};
  for (TeamRates& team : machine.rates.host.teams) {
    team.linear = team.experts = {{DType::kF16, small}};
    team.attention = small;
  }
  machine.rates.devices[0].linear = machine.rates.devices[0].experts = {{DType::kF32, small}};
  machine.rates.devices[0].attention = small;
  const std::string json = MachineJson(machine);
  int refused = 0, read = 0;
  for (std::size_t i = 0; i < json.size(); i += 11) {
    std::string damaged = json;
    damaged[i] = "-\"0x,}]"[i / 11 % 7];
    try {
      const Machine m = ParseMachine(damaged, "m.json");
      ++read;
      EXPECT_FALSE(m.nodes.empty());
      for (const TeamRates& team : m.rates.host.teams) ASSERT_TRUE(IsValid(team.attention)) << i;
      for (const DeviceRates& d : m.rates.devices) ASSERT_GT(d.read_bytes_per_s, 0) << i;
    } catch (const ConfigError&) {
      ++refused;
    }
  }
  std::printf("%d refused, %d read\n", refused, read);
  EXPECT_GT(refused, 300);
}

TEST(MachineFile, AbsentAndTooLargeFiles) {
  test::ExpectError<SystemError>(ExitCode::kMissingFile, {"nowhere.yaml"},
                                 [] { ReadMachineFile("/nonexistent/nowhere.yaml"); });
  const test::TempFolder folder;
  const std::string large = folder.Write("m.yaml", std::string(2 << 20, '#')).string();
  test::ExpectError<ConfigError>(ExitCode::kConfig, {"m.yaml", "at most"},
                                 [&] { ReadMachineFile(large); });
}

TEST(MachineFile, ShippedMachines) {
  const std::string folder = TANDEM_SOURCE_DIR "/profiles/machines/";
  const Machine server = ReadMachineFile(folder + "two-socket-768g-24g-gpu.yaml");
  EXPECT_EQ(server.nodes.size(), 2U);
  EXPECT_EQ(server.memory_limit_bytes, 768 * kGiB);
  EXPECT_EQ(server.devices.at(0).memory_bytes, 24 * kGiB);
  const Machine workstation = ReadMachineFile(folder + "workstation-128g-two-gpus.yaml");
  EXPECT_EQ(workstation.devices.size(), 2U);
  EXPECT_GT(workstation.rates.devices[0].read_bytes_per_s,
            workstation.rates.devices[1].read_bytes_per_s);
  const Machine laptop = ReadMachineFile(folder + "laptop-32g.yaml");
  EXPECT_TRUE(laptop.devices.empty());
  EXPECT_EQ(laptop.memory_limit_bytes, 28 * kGiB);
  for (const Machine* m : {&server, &workstation, &laptop}) {
    EXPECT_EQ(m->rates.origin, RatesOrigin::kFile);
    ExpectReadBack(*m);
  }
}

// The example of the documentation is a machine file.
TEST(MachineFile, TheDocumentedExample) {
  const std::string doc = test::ReadText(TANDEM_SOURCE_DIR "/docs/machine_file.md");
  const std::size_t begin = doc.find("```yaml\n");
  ASSERT_NE(begin, std::string::npos);
  const std::size_t end = doc.find("```", begin + 8);
  const Machine m = ParseMachine(doc.substr(begin + 8, end - begin - 8), "docs/machine_file.md");
  EXPECT_EQ(m.nodes.size(), 2U);
  EXPECT_EQ(m.devices.size(), 1U);
}

}  // namespace
}  // namespace tandem
