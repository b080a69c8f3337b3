#pragma once

#include <cstdint>
#include <string>

namespace tandem {

// Bytes that this process may use in all, those it already has included: the smallest of
//   - MemAvailable + our resident set, and
//   - for every memory cgroup that we are in, and its ancestors, limit - usage + page cache + our
//     resident set (v2: memory.max; v1: memory.limit_in_bytes), at most the limit.
// `root` is put before /proc and /sys, for tests. Throws SystemError if /proc/meminfo is
// unreadable.
std::uint64_t ReadMemoryLimit(const std::string& root = "");

// Free memory of one NUMA node with its page cache, which gives way; 0 if the kernel does not tell.
std::uint64_t NodeFreeBytes(int os_index, const std::string& root = "");

}  // namespace tandem
