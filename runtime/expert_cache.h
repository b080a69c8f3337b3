#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/cl_shared.h"
#include "runtime/cache_judge.h"
#include "runtime/cache_policy.h"
#include "runtime/device_experts.h"
#include "runtime/device_side.h"
#include "runtime/host_side.h"
#include "runtime/weights.h"

namespace tandem {

// Experts of the host that are used much, copied to slots on the device while the engine runs
// (Plan::cache). Who runs an expert changes only between steps, on both sides at once: a copy
// begins at the end of a step, when nothing else is under way, travels in a queue of its own beside
// the next steps, and counts from the beginning of the first step that finds it complete.
//
// What lies in panels travels so, and is split on the device (cl_kernels/panel_split.cl): the bits
// are those of an expert whose place is the device.
class ExpertCache {
 public:
  // For plans with cache.slots. All arguments outlive this.
  ExpertCache(const Plan& plan, const Weights& weights, HostSide& host, DeviceSide& device,
              DeviceExperts& experts);
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  void BeginStep();
  // The pairs of a layer's experts, pair_begin[e] to pair_begin[e + 1], on either side.
  void Count(int layer, std::span<const std::int64_t> pair_begin);
  void EndStep(std::int64_t rows);
  // Whether the device runs an expert of the host in this step.
  bool Holds(int layer, std::size_t expert) const;

  std::uint64_t host_bytes() const { return ring_.bytes(); }
  // Why it went off by itself; empty: it did not.
  const std::string& off() const { return off_; }

 private:
  static constexpr std::int32_t kNoId = -1;
  struct Home {  // of an expert of the host
    int layer = 0;
    std::size_t expert = 0;
  };
  struct Copy {  // a place of the ring
    std::optional<CacheExchange> exchange;
    ClEventHandle arrived;
  };

  static std::vector<Home> HomesOf(const Weights& weights);
  const MlpWeights& WeightsOf(const Home& home) const;
  void Begin(Copy& copy, std::size_t place, const CacheExchange& exchange);
  std::uint64_t CopyToRing(const MlpWeights& w, std::byte* to);
  void Adopt(Copy& copy, std::size_t place);
  void Split(const MlpWeights& w, std::size_t place, std::size_t slot);
  cl::ExpertEntry EntryInSlot(std::size_t id, std::size_t slot) const;
  void SetEntry(std::size_t id, const cl::ExpertEntry& entry);
  void Serve(bool serves);
  void Follow(CacheJudge::Verdict verdict);

  const Plan& plan_;
  const Weights& weights_;
  HostSide& host_;
  DeviceSide& device_;
  DeviceExperts& experts_;
  cl_mem slab_;
  cl_mem raw_ = nullptr;  // where experts in panels arrive
  std::vector<cl_int> slab_numbers_;
  ClPinned ring_;
  ClSideQueue copies_;  // ends before the memory that it copies from goes
  std::vector<Copy> under_way_;
  std::vector<Home> homes_;
  std::vector<std::vector<std::int32_t>> ids_;  // [layer][expert] into homes_, -1: on the device
  CachePolicy policy_;
  CacheJudge judge_;
  bool serves_ = true;  // else paused or off
  std::string off_;
  double begun_ = 0;
};

}  // namespace tandem
