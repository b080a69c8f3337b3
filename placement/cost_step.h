#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "placement/cost.h"
#include "placement/cost_rates.h"

namespace tandem {

// The shape of one step.
struct StepRows {
  double rows = 1;
  double keys = 1;    // that a row attends to, on average
  double logits = 1;  // rows that want them
};

// Adds up one step under a plan: the same operations in the same order as runtime/decoder.cpp,
// with every wait that is in the code. Equations in docs/placement.md. cost_attention.cpp and
// cost_experts.cpp have those parts.
class StepEstimate {
 public:
  StepEstimate(const Config& config, const RoleTypes& types, const Machine& machine,
               const Plan& plan, const StepRows& step);

  void Embed();
  void Attention(const LayerPlan& layer);
  void Dense(const LayerPlan& layer);
  void Moe(const LayerPlan& layer, const LayerShares& shares);
  void Head();
  // cost_deferral.cpp: what was added since `before`, a layer to which the former's sum comes late.
  void Defer(const StepCost& before);
  const StepCost& cost() const { return cost_; }
  StepCost Take();

 private:
  static constexpr double kF32 = sizeof(float);
  struct Part {  // of a step, on one side
    double seconds = 0;
    double bytes = 0;  // of memory that it reads
    double launches = 0;
  };
  struct Loads {
    ExpertLoad host;
    std::vector<ExpertLoad> devices;
    double host_share = 0;  // of all pairs
    friend bool operator==(const Loads&, const Loads&) = default;
  };

  struct Overlap {
    double seconds = 0, host = 0, device = 0;
    Part host_part, device_part;
  };

  void MoveX(Place place);
  void AddHost(const Part& part);
  void AddDevice(int device, const Part& part);
  void AddTransfer(double seconds);
  void AddHandOver(double seconds);
  Limit HostLimit(const Part& part) const;
  Limit DeviceLimit(int device, const Part& part) const;

  Part AttentionOnHost() const;
  Part AttentionOnDevice(int device) const;
  double AttentionScale(int device) const;  // -1: the host
  double ComputeUnits(int device) const;
  Part MlpOnHost(DType type, double width) const;
  Part MlpOnDevice(int device, DType type, double width) const;
  void Route(const LayerPlan& layer);
  Loads LoadsOf(const LayerPlan& layer, const LayerShares& shares) const;
  Part HostExperts(ExpertLoad load, bool shared) const;
  Part DeviceExperts(int device, ExpertLoad load) const;
  void AddWay(int device, ExpertLoad load, Part& part) const;
  // Both sides of a MoE layer at once. The shared experts count in full: reading the choice of
  // experts into pageable memory holds the host up until it is there, on the drivers measured.
  void AddOverlapped(const Loads& loads, bool host_shared, int shared_device);
  Overlap OverlapOf(const Loads& loads, bool host_shared, int shared_device) const;
  double Together(const Part& host, const std::vector<Part>& devices) const;
  void Join(const Loads& loads, bool host_work, int shared_device);

  const Config& config_;
  const RoleTypes& types_;
  const Machine& machine_;
  const Plan& plan_;
  StepRows step_;
  TeamCost team_;
  std::vector<DeviceCost> devices_;
  double all_cores_read_ = 0;  // bytes per second, for devices that share the cores
  int x_device_ = -1;          // where the residual is; -1: host
  StepCost cost_;
  std::array<double, 7> limits_{};
  std::array<int, 7> limit_index_{};
  // Layers that are alike cost the same: what was computed last.
  Loads last_loads_;
  int last_shared_ = -3;
  Overlap last_overlap_;
};

}  // namespace tandem
