#pragma once

#include <cstdint>
#include <vector>

#include "memory/cl_shared.h"
#include "memory/error.h"
#include "runtime/device_experts.h"
#include "runtime/device_side.h"
#include "runtime/expert_launch.h"
#include "runtime/host_side.h"
#include "runtime/weights.h"

namespace tandem {

// The rows of a layer and what they chose, on the host: [T, D], [T, K], [T, K] without gaps.
struct ChosenRows {
  std::int64_t T = 0;
  const float* h = nullptr;
  const std::int32_t* ids = nullptr;
  const float* weights = nullptr;
};

// A device of the plan beyond the first. It holds routed experts and nothing else, so that all it
// needs of a layer passes through the host: rows and choice go there, a sum comes back.
class ExpertDevice {
 public:
  // `side` is Place::Device(index) of the plan. All arguments outlive this.
  ExpertDevice(const Config& config, const Plan& plan, const Weights& weights, HostSide& host,
               DeviceSide& side, int index);

  // Enqueues the layer's experts that are here and starts them; does nothing where no row chose
  // one. Copies what it needs of `rows`.
  void Start(int layer, const ChosenRows& rows);
  // y [T, D] += the sum that Start began, once it is there.
  void AddTo(float* y);

  std::uint64_t host_bytes() const { return pinned_.bytes(); }

 private:
  bool Chosen(int layer, const ChosenRows& rows);
  void Enqueue(int layer, const ChosenRows& rows);
  void Send(const ChosenRows& rows);
  [[noreturn]] void Lost(const DeviceLostError& error) const;
  float* sum() const;  // in pinned memory

  const Config& config_;
  const Plan& plan_;
  HostSide& host_;
  DeviceSide& side_;
  Place place_;
  ExpertMemory memory_;
  cl::Span part_;  // [T, D] the sum
  DeviceExperts experts_;
  std::vector<std::uint64_t> expert_bytes_;  // of one, by layer
  ClPinned pinned_;                          // h, ids, weights and the sum of a layer
  ClEventHandle sum_read_;                   // null: nothing is under way
  std::int64_t T_ = 0;                       // of what is under way
  std::vector<bool> seen_;
};

}  // namespace tandem
