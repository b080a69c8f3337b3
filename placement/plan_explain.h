#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/tensor_list.h"
#include "placement/machine.h"
#include "placement/plan.h"
#include "placement/planner.h"
#include "placement/profile.h"

namespace tandem {

// Why a plan is as it is.
struct Explanation {
  // Things of one kind in one place, against the same things on the other side.
  struct Group {
    std::string what;
    Place place;
    std::uint64_t bytes = 0;
    std::string why;
    // What being here saves against the other side; negative: it would be faster there.
    double first_token_s = 0;
    double decode_token_s = 0;
    double workload_s_per_gib = 0;
  };
  // The best plan on a machine that is a little better.
  struct WhatIf {
    std::string change;
    Prediction prediction;
  };
  Plan plan;
  std::vector<Group> groups;
  std::vector<WhatIf> what_ifs;
};

// `plan` is what MakePlan made of the other arguments. Plans again for every "what if".
Explanation Explain(const Config& config, const TensorList& tensors, const Machine& machine,
                    const Profile& profile, const PlanOptions& options, const Plan& plan);

// Seconds to the first token under the plan if its cold experts were copied to the device in
// prefill; 0 where there is nothing to copy.
double StreamedFirstToken(const Config& config, const TensorList& tensors, const Machine& machine,
                          const Profile& profile, const PlanOptions& options, const Plan& plan);

std::string ToText(const Explanation& explanation);
// A map with "groups", "prefill_step", "decode_step" and "what_if".
std::string ToJson(const Explanation& explanation);

}  // namespace tandem
