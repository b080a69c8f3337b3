#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/planner.h"
#include "placement/profile.h"

namespace tandem {

// Devices that a plan may use together, fastest first: Place::Device(i) is the i-th.
using DeviceSet = std::vector<const Device*>;

// The sets of devices to plan for. "auto" gives several and may end without a device; what the user
// named is one set, and is used if anything may go there at all.
struct DeviceChoice {
  std::vector<DeviceSet> sets;
  bool automatic = false;
  bool some() const { return !sets.empty(); }
};

// The devices that the profile asks for: "auto" takes GPUs, or CPU devices where there is no GPU;
// none are there: says so in `notes`. A device that is named and absent, or more of them than the
// runtime can use, is an OpenClError that lists those found.
DeviceChoice ChooseDevices(const Machine& machine, const Profile& profile,
                           const Abilities& abilities, std::vector<std::string>& notes);

// "all", an index, a part of a name, or several of these with commas.
DeviceSet FindDevices(const Machine& machine, const std::string& names);

// Bytes that the plan may use. Defaults: the memory limit less 5 % on the host, 90 % of a GPU's
// memory, and for a device that lives in the host's memory a quarter of the limit.
// Throws ConfigError if the profile asks for more than there is.
std::uint64_t HostBudget(const Machine& machine, const Profile& profile);
std::uint64_t DeviceBudget(const Machine& machine, const Profile& profile, const Device& device);
// Of one NUMA node, for weights: what is free there, or what the profile allows.
std::uint64_t NodeBudget(const Machine& machine, const Node& node, const Profile& profile);

// Which cores the CPU team gets, and how many threads a device that shares them.
struct Threads {
  std::vector<PlanNode> nodes;  // those with threads
  int device_threads = 0;
  int total() const;
};
// What one side has beside so many threads of the other on the same cores: those that are left, and
// one where none is, as neither can do without. So both may have one thread more than cores.
int ThreadsBeside(int cores, int threads);
// Every core within the CPU quota; half of them each beside a device that shares them (null: none).
// On one core both get one thread.
Threads ShareCores(const Machine& machine, const Profile& profile, const Device* device);
// Every way to share the cores out between the team and such a device that the profile allows and
// that is worth a look.
std::vector<Threads> CoreSplits(const Machine& machine, const Profile& profile,
                                const Device& device);

// Sets every node's share of the host weights by what its threads read per second, as far as its
// budget holds it; 0 for all where they are equal within 5 %. Returns the bytes that fit nowhere.
std::uint64_t ShareWeights(const Machine& machine, const Profile& profile, std::uint64_t bytes,
                           std::vector<PlanNode>& nodes);

// "no OpenCL device was found (why)", or those that were.
std::string FoundDevices(const Machine& machine);

// "the profile" as it is to be called in messages.
std::string ProfileName(const Profile& profile);

}  // namespace tandem
