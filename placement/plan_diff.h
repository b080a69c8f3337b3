#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "placement/plan.h"

namespace tandem {

// What differs between two plans for one model.
struct PlanDiff {
  struct Setting {
    std::string name;
    std::string before, after;
  };
  struct Bytes {  // of a line of the table
    std::string what, place;
    std::uint64_t before = 0, after = 0;
  };
  struct Move {  // of a role in layers, or of experts over all layers
    std::string what, from, to;
    std::string layers;      // "0-17,20", empty for the head
    std::int64_t count = 0;  // layers or experts
  };
  struct Speed {
    std::string name, unit;
    double before = 0, after = 0;
  };
  std::vector<Setting> settings;
  std::vector<Bytes> bytes;
  std::vector<Move> moves;
  std::vector<Speed> speeds;  // all that are predicted, changed or not
  bool empty() const { return settings.empty() && bytes.empty() && moves.empty(); }
};

// Throws ConfigError if the plans are of models with other layers or experts.
PlanDiff Diff(const Plan& before, const Plan& after);

std::string ToText(const PlanDiff& diff);
std::string ToJson(const PlanDiff& diff);

}  // namespace tandem
