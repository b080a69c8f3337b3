#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/profile.h"

namespace tandem {

// The device that the profile asks for, or null for a plan without one: "auto" takes the first GPU,
// else the first device, else none, and says so in `notes`. A device that is named and absent is an
// OpenClError that lists those found.
const Device* ChooseDevice(const Machine& machine, const Profile& profile,
                           std::vector<std::string>& notes);

// Bytes that the plan may use. Defaults: the memory limit less 5 % on the host, 90 % of a GPU's
// memory, and for a device that lives in the host's memory a quarter of the limit.
// Throws ConfigError if the profile asks for more than there is.
std::uint64_t HostBudget(const Machine& machine, const Profile& profile);
std::uint64_t DeviceBudget(const Machine& machine, const Profile& profile, const Device& device);

// Which cores the CPU team gets, and how many threads a device that shares them: by default every
// core, or half of them each. On one core both get one thread.
struct Threads {
  std::vector<PlanNode> nodes;  // those with threads
  int device_threads = 0;
  int total() const;
};
Threads ShareCores(const Machine& machine, const Profile& profile, const Device* device);

// "no OpenCL device was found (why)", or those that were.
std::string FoundDevices(const Machine& machine);

// "the profile" as it is to be called in messages.
std::string ProfileName(const Profile& profile);

}  // namespace tandem
