#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "placement/plan.h"
#include "placement/plan_input.h"
#include "placement/resources.h"

namespace tandem {

// A plan in a few numbers, which the search varies: what is offered to the devices beyond what the
// profile demands. An offer that does not fit stays on the host.
struct Recipe {
  std::array<std::int64_t, kLayerRoleCount> layers{};  // of each role so many, from the first
  bool head = false;
  std::int64_t experts = 0;  // at most so many of PlanInput::expert_order
  bool experts_first = false;
  std::vector<std::int64_t> homes;  // the first layer whose experts go to each device but the first
  std::size_t split = 0;            // of Resources::splits
  std::int64_t chunk = 512;
  bool stream = false;

  friend auto operator<=>(const Recipe&, const Recipe&) = default;
};

// What plans on one set of devices have in common.
struct Resources {
  Resources(const PlanInput& input, DeviceSet set);

  DeviceSet devices;
  std::vector<std::uint64_t> budgets;  // of the devices
  std::vector<Threads> splits;         // at least one; several beside a device that shares cores
};

// Bytes of all buffers for activations on one side, and a device's largest.
struct ScratchSize {
  std::uint64_t bytes = 0;
  std::uint64_t largest = 0;
  const char* name = "";  // of the largest
};

// Remembers sizes, as the search asks for few different ones very often.
class ScratchSizes {
 public:
  explicit ScratchSizes(const Config& config) : config_(config) {}
  // `roles` is a set of ScratchRole bits.
  ScratchSize Host(const Plan& plan, unsigned roles);
  ScratchSize Device(const Plan& plan, unsigned roles);

 private:
  // Host or device, rows, threads, devices, roles, the first device.
  using Key = std::tuple<bool, std::int64_t, std::size_t, std::size_t, unsigned, int>;
  ScratchSize Find(const Plan& plan, unsigned roles, bool host);
  const Config& config_;
  std::map<Key, ScratchSize> sizes_;
};

enum ScratchRole : unsigned {
  kScratchAttention = 1,
  kScratchMlp = 2,
  kScratchRouter = 4,
  kScratchExperts = 8,
  kScratchHead = 16,
  kScratchStream = 32,
  kScratchCache = 64,
  kScratchFirst = 128,
  kScratchFeed = 256,
};

// Filled::missing where bytes are there, but no buffer as large as one must be.
inline constexpr std::uint64_t kNoSuchBuffer = 1;

// A plan with its sums, without table, notes and prediction.
struct Filled {
  Plan plan;
  std::vector<std::uint64_t> device_bytes;
  std::uint64_t host_bytes = 0;    // without devices that live in the host's memory
  std::uint64_t missing = 0;       // bytes over the budgets of all places, 0: it fits
  std::uint64_t node_missing = 0;  // of these, what fits the host but none of its nodes
  std::string problem;             // why a device cannot hold it at all, if so
  bool uses_device = false;
  std::int64_t placed_experts = 0;  // of Recipe::experts
  std::uint64_t layout = 0;         // equal for plans that place everything alike
};

Filled Fill(const PlanInput& input, const Resources& resources, const Recipe& recipe,
            ScratchSizes& scratch);

// The table of items with exact bytes, and Plan::host_bytes.
void FillItems(const PlanInput& input, Plan& plan);

}  // namespace tandem
