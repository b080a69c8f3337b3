#pragma once

#include <string>
#include <vector>

#include "invented.h"
#include "placement/planner.h"

// Models of real shapes by their names, and plans for them.
namespace tandem::test {

struct ModelCase {
  std::string name;
  Config config;
  TensorList tensors;
};

inline const ModelCase& Case(const std::string& name) {
  static const std::vector<ModelCase> cases = [] {
    std::vector<ModelCase> list;
    list.push_back({"V2-Lite", V2Lite(), ExpectedTensors(V2Lite(), DType::kBF16)});
    list.push_back({"V2", V2(), ExpectedTensors(V2(), DType::kBF16)});
    list.push_back({"V3", V3(), ExpectedTensors(V3(), DType::kF8E4M3)});
    return list;
  }();
  return *std::ranges::find(cases, name, &ModelCase::name);
}

inline Abilities Several() { return {.devices = 8, .stream_prefill = false}; }

inline Plan PlanOf(const ModelCase& model, const Machine& machine, const Profile& profile = {},
                   const RoutingStatistics* statistics = nullptr) {
  PlanOptions options;
  options.statistics = statistics;
  options.abilities = Several();
  return MakePlan(model.config, model.tensors, machine, profile, options);
}

}  // namespace tandem::test
