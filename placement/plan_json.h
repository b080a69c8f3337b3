#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "placement/plan.h"

namespace tandem {

struct Explanation;  // plan_explain.h
struct PlanDiff;     // plan_diff.h

// For the sources that write plans and what is said of them; nothing else includes this.
using OrderedJson = nlohmann::ordered_json;

OrderedJson PlanJson(const Plan& plan);
OrderedJson ExplanationJson(const Explanation& explanation);
OrderedJson DiffJson(const PlanDiff& diff);
OrderedJson StepCostJson(const StepCost& cost);
// Indented. A device name comes from a driver: bytes that are no UTF-8 do not throw.
std::string Dump(const OrderedJson& json);
// The same content as YAML: block maps, short lists in one line, texts quoted as in JSON.
std::string DumpYaml(const OrderedJson& json);

}  // namespace tandem
