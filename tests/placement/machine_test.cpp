// ctest: unit
#include "placement/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "invented.h"
#include "placement/limits.h"
#include "placement/rates_json.h"
#include "placement/topology.h"

namespace tandem {
namespace {

using test::kGiB;
using test::kMiB;

// A made-up /proc and /sys.
class FakeRoot {
 public:
  FakeRoot() {
    std::string name = ::testing::TempDir() + "tandem_machine_XXXXXX";
    root_ = mkdtemp(name.data());
    Write("/proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n");  // 8 GiB
    Write("/proc/self/statm", "1000 256 10 1 0 1 0\n");
  }
  ~FakeRoot() { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ + path).substr(0, (root_ + path).rfind('/')));
    std::ofstream(root_ + path) << text;
  }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

std::uint64_t Resident() { return 256 * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)); }

TEST(MemoryLimit, AvailableMemoryAndOurs) {
  const FakeRoot fake;
  EXPECT_EQ(ReadMemoryLimit(fake.root()), 8 * kGiB + Resident());
}

TEST(MemoryLimit, CgroupV2TakesTheSmallestAncestor) {
  const FakeRoot fake;
  fake.Write("/proc/self/cgroup", "0::/outer/inner\n");
  fake.Write("/sys/fs/cgroup/outer/inner/memory.max", "max\n");
  fake.Write("/sys/fs/cgroup/outer/memory.max", "3221225472\n");
  EXPECT_EQ(ReadMemoryLimit(fake.root()), 3 * kGiB);
  // 1 GiB in use, 256 MiB of it page cache, and some of it ours.
  fake.Write("/sys/fs/cgroup/outer/memory.current", "1073741824\n");
  fake.Write("/sys/fs/cgroup/outer/memory.stat",
             "anon 5\ninactive_file 134217728\nactive_file 134217728\n");
  EXPECT_EQ(ReadMemoryLimit(fake.root()), 3 * kGiB - 768 * kMiB + Resident());
}

TEST(MemoryLimit, CgroupV1AndItsWordForNoLimit) {
  const FakeRoot fake;
  fake.Write("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/job/7\n0::/\n");
  fake.Write("/sys/fs/cgroup/memory/job/7/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(ReadMemoryLimit(fake.root()), 8 * kGiB + Resident());
  fake.Write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2147483648\n");
  fake.Write("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "2147483648\n");
  fake.Write("/sys/fs/cgroup/memory/job/memory.stat",
             "inactive_file 1\ntotal_inactive_file 1048576\ntotal_active_file 0\n");
  EXPECT_EQ(ReadMemoryLimit(fake.root()), kMiB + Resident());
}

// Inside a container the path is often the one outside; the mount's root carries the limit.
TEST(MemoryLimit, APathThatIsNotThereStillHasItsRoot) {
  const FakeRoot fake;
  fake.Write("/proc/self/cgroup", "0::/docker/abc\n");
  fake.Write("/sys/fs/cgroup/memory.max", "1073741824\n");
  EXPECT_EQ(ReadMemoryLimit(fake.root()), kGiB);
}

TEST(MemoryLimit, DamagedFilesAreNoLimitAndNoCrash) {
  const FakeRoot fake;
  fake.Write("/proc/self/cgroup", "\n::\n0\nmemory\n0::no-slash\n1:memory:relative\n");
  fake.Write("/sys/fs/cgroup/memory.max", "\xff\xfe");
  EXPECT_EQ(ReadMemoryLimit(fake.root()), 8 * kGiB + Resident());
  EXPECT_THROW(ReadMemoryLimit("/nonexistent"), SystemError);
}

TEST(MemoryTotal, IsTheMachinesAndNotWhatIsFree) {
  const FakeRoot fake;
  EXPECT_EQ(ReadMemoryTotal(fake.root()), 16 * kGiB);
  EXPECT_EQ(ReadMemoryTotal("/nonexistent"), 0U);
}

TEST(NodeMemory, FreeAndPageCache) {
  const FakeRoot fake;
  fake.Write("/sys/devices/system/node/node1/meminfo",
             "Node 1 MemTotal: 4000 kB\nNode 1 MemFree: 100 kB\nNode 1 Active: 7 kB\n"
             "Node 1 Active(file): 20 kB\nNode 1 Inactive(file): 3 kB\n");
  EXPECT_EQ(NodeFreeBytes(1, fake.root()), 123u * 1024);
  EXPECT_EQ(NodeFreeBytes(0, fake.root()), 0u);
}

TEST(NodeMemory, FreeHugePagesOfAllSizes) {
  const FakeRoot fake;
  const std::string folder = "/sys/devices/system/node/node0/hugepages/";
  EXPECT_EQ(NodeFreeHugePageBytes(0, fake.root()), 0u);
  fake.Write(folder + "hugepages-2048kB/free_hugepages", "3\n");
  fake.Write(folder + "hugepages-2048kB/nr_hugepages", "100\n");
  fake.Write(folder + "hugepages-1048576kB/free_hugepages", "2\n");
  fake.Write(folder + "hugepages-xkB/free_hugepages", "7\n");
  EXPECT_EQ(NodeFreeHugePageBytes(0, fake.root()), 6 * kMiB + 2 * kGiB);
}

TEST(CpuQuota, CgroupV2TakesTheSmallestAncestor) {
  const FakeRoot fake;
  EXPECT_EQ(ReadCpuQuota(fake.root()), 0);
  fake.Write("/proc/self/cgroup", "0::/outer/inner\n");
  fake.Write("/sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 0);
  fake.Write("/sys/fs/cgroup/outer/cpu.max", "250000 100000\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 2.5);
  fake.Write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 2.5);
}

TEST(CpuQuota, CgroupV1AndDamage) {
  const FakeRoot fake;
  fake.Write("/proc/self/cgroup", "2:cpu,cpuacct:/job\n1:cpuset:/other\n");
  fake.Write("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
  fake.Write("/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 0);
  fake.Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 0);  // no period beside it
  fake.Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 3);
  fake.Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "\xff 1\n");
  EXPECT_EQ(ReadCpuQuota(fake.root()), 0);
}

TEST(PciLocality, NodeOfAnAddress) {
  const FakeRoot fake;
  fake.Write("/sys/bus/pci/devices/0000:ca:00.0/numa_node", "1\n");
  fake.Write("/sys/bus/pci/devices/0000:18:00.0/numa_node", "-1\n");
  EXPECT_EQ(PciNumaNode("0000:CA:00.0", fake.root()), 1);
  EXPECT_EQ(PciNumaNode("0000:18:00.0", fake.root()), -1);
  EXPECT_EQ(PciNumaNode("0000:19:00.0", fake.root()), -1);
  EXPECT_EQ(PciNumaNode("", fake.root()), -1);
  fake.Write("/sys/bus/pci/numa_node", "1\n");
  EXPECT_EQ(PciNumaNode("..", fake.root()), -1);
  EXPECT_EQ(PciNumaNode("../../pci", fake.root()), -1);
}

TEST(Distances, AllNodesOrNothing) {
  const FakeRoot fake;
  fake.Write("/sys/devices/system/node/node0/distance", "10 21\n");
  EXPECT_TRUE(ReadDistances({0, 2}, fake.root()).empty());
  fake.Write("/sys/devices/system/node/node2/distance", "21 10\n");
  EXPECT_EQ(ReadDistances({0, 2}, fake.root()),
            (std::vector<std::vector<int>>{{10, 21}, {21, 10}}));
  EXPECT_TRUE(ReadDistances({0, 2, 3}, fake.root()).empty());
}

TEST(Memlock, IsTheLimitOfThisProcess) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &before), 0);
  const rlimit low{std::min<rlim_t>(before.rlim_max, 65536), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &low), 0);
  EXPECT_EQ(ReadMemlockLimit(), low.rlim_cur);
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &before), 0);
}

void ExpectUsable(const std::vector<Node>& nodes, const cpu_set_t& allowed) {
  std::set<int> cores;
  for (const Node& node : nodes) {
    EXPECT_GT(node.memory_bytes, 0u);
    EXPECT_LE(node.free_bytes, node.memory_bytes);
    for (int core : node.cores) {
      EXPECT_TRUE(CPU_ISSET(core, &allowed)) << core;
      EXPECT_TRUE(cores.insert(core).second) << core << " is in two nodes";
    }
  }
  EXPECT_GT(cores.size(), 0u);
  EXPECT_LE(static_cast<int>(cores.size()), CPU_COUNT(&allowed));
}

TEST(Machine, ThisOneWithoutDevices) {
  const Machine machine = ReadMachine(ProbeDevices::kNo);
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  ExpectUsable(machine.nodes, allowed);
  EXPECT_FALSE(machine.cpu_name.empty());
  EXPECT_GT(machine.memory_limit_bytes, 16 * kMiB);
  EXPECT_TRUE(machine.devices.empty());
  EXPECT_EQ(Mismatch(machine.rates, machine), "");
  EXPECT_EQ(Fingerprint(machine), Fingerprint(ReadMachine(ProbeDevices::kNo)));
  std::printf("%s, %zu nodes, limit %.1f GiB\n", machine.cpu_name.c_str(), machine.nodes.size(),
              static_cast<double>(machine.memory_limit_bytes) / static_cast<double>(kGiB));
}

TEST(Machine, ABoundProcessSeesItsCoresOnly) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const int core = ReadTopology().nodes[0].cores.at(0);
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  const Topology bound = ReadTopology();
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  ExpectUsable(bound.nodes, one);
}

}  // namespace
}  // namespace tandem
