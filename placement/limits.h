#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

// What the kernel lets this process have. `root` is put before /proc and /sys, for tests.

// Bytes that this process may use in all, those it already has included: the smallest of
//   - MemAvailable + our resident set, and
//   - for every memory cgroup that we are in, and its ancestors, limit - usage + page cache + our
//     resident set (v2: memory.max; v1: memory.limit_in_bytes), at most the limit.
// Throws SystemError if /proc/meminfo is unreadable.
std::uint64_t ReadMemoryLimit(const std::string& root = "");

// MemTotal of /proc/meminfo: the machine's memory, whoever uses it; 0 if the kernel does not tell.
std::uint64_t ReadMemoryTotal(const std::string& root = "");

// The memory cgroups' part of it alone; UINT64_MAX: none of them has a limit.
std::uint64_t ReadCgroupMemoryLimit(const std::string& root = "");

// Cores' worth of time that the CPU cgroups grant (v2: cpu.max; v1: cpu.cfs_quota_us), the least of
// ours and its ancestors; 0: no quota. More threads than this only take turns being stopped.
double ReadCpuQuota(const std::string& root = "");

// RLIMIT_MEMLOCK; UINT64_MAX: none, 0: the kernel does not tell.
std::uint64_t ReadMemlockLimit();

// Free memory of one NUMA node with its page cache, which gives way; 0 if the kernel does not tell.
std::uint64_t NodeFreeBytes(int os_index, const std::string& root = "");

// Reserved huge pages of a node that nobody uses, of all sizes together.
std::uint64_t NodeFreeHugePageBytes(int os_index, const std::string& root = "");

// Distances of the nodes from each other as the firmware tells them (10: local); empty if it does
// not tell all of them.
std::vector<std::vector<int>> ReadDistances(const std::vector<int>& os_indices,
                                            const std::string& root = "");

// The NUMA node that a PCI device ("0000:18:00.0") is attached to; -1: unknown.
int PciNumaNode(const std::string& address, const std::string& root = "");

}  // namespace tandem
