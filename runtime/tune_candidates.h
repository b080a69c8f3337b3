#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/tensor_source.h"
#include "placement/cost.h"
#include "placement/machine.h"
#include "placement/planner.h"
#include "placement/profile.h"

namespace tandem {

// A plan to try, with the profile that gives it.
struct TuneCandidate {
  std::string change;  // from the best so far: "16 of 64 experts a layer on the device"
  Profile profile;     // pinned
  Plan plan;
  double predicted_s = 0;  // of the workload
};

// Proposes plans. Only what the user's profile leaves to the planner is varied; a plan that does
// not fit, or that the profile cannot say, is not proposed.
class TuneCandidates {
 public:
  // `profile` is the user's. All arguments outlive this.
  TuneCandidates(const Model& model, const Machine& machine, const Profile& profile,
                 const PlanOptions& options, const Plan& start);

  // The candidate of a plan that was made already.
  std::optional<TuneCandidate> Pin(std::string change, const Profile& profile,
                                   const Plan& plan) const;
  // The candidate of a profile; none if its plan does not fit.
  std::optional<TuneCandidate> FromProfile(std::string change, const Profile& profile) const;
  // The shipped profiles that fit, with the user's workload.
  std::vector<TuneCandidate> Shipped() const;
  // One change away from `current`; those that the cost model likes best first. A chunk is at most
  // `most_rows`, as no longer one would be measured.
  std::vector<TuneCandidate> Neighbours(const TuneCandidate& current, std::int64_t most_rows) const;

 private:
  std::optional<Plan> TryPlan(const Profile& profile) const;
  // `edited` is `current` with other places.
  void Add(std::string change, const TuneCandidate& current, Plan edited,
           std::vector<TuneCandidate>& list) const;
  void AddExperts(const TuneCandidate& current, std::vector<TuneCandidate>& list) const;
  void AddRoles(const TuneCandidate& current, std::vector<TuneCandidate>& list) const;
  void AddChunks(const TuneCandidate& current, std::int64_t most_rows,
                 std::vector<TuneCandidate>& list) const;
  void AddThreads(const TuneCandidate& current, std::vector<TuneCandidate>& list) const;
  bool MayUseDevice() const { return !devices_.empty(); }
  // Whether an engine on `devices_` can go over to the plan.
  bool OnOurDevices(const Plan& plan) const;
  // The plan with `devices_` as its devices, some of which may be idle.
  Plan WithOurDevices(Plan plan) const;
  int DeviceThreads() const;  // of a device that shares the cores; 0: none does

  const Model& model_;
  const Machine& machine_;
  const Profile& profile_;
  const PlanOptions& options_;
  CostModel cost_;
  Workload workload_;
  std::vector<PlanDevice> devices_;  // to move to
  int cores_ = 0;
};

}  // namespace tandem
