#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/session.h"

namespace tandem {

// What was planned beside what came of it. real 0: nothing was measured.
struct PlanReport {
  struct Line {
    std::string what;  // "host weights", "prefill"
    double planned = 0;
    double real = 0;
  };
  std::vector<Line> bytes;
  std::vector<Line> speed;  // tokens/s
  std::string workload;     // that the speed was predicted for
};

// Work that an engine did, for which its plan's speed is predicted again.
struct WorkDone {
  double sequences = 1;
  double prompt_tokens = 0;  // of a sequence
  double answer_tokens = 0;
  double prefill_tokens_per_s = 0;  // 0: not measured
  double decode_tokens_per_s = 0;
  std::uint64_t other_bytes = 0;  // resident memory of this process that no plan is about
};
// What the engine's metrics say of the work since their last reset.
WorkDone WorkOf(const Metrics& metrics);

// `session` is the one that the engine was loaded from: its machine's rates are those that predict.
PlanReport MakePlanReport(const Session& session, const Engine& engine, const WorkDone& work);
std::string ToText(const PlanReport& report);
nlohmann::ordered_json ToJson(const PlanReport& report);

// The report on stderr, if the user asked for it: what every command that loads a model does at its
// end.
void PrintPlanReport(const SessionOptions& options, const Session& session, const Engine& engine);

}  // namespace tandem
