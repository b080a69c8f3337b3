#pragma once

#include <cstdint>

#include "model/config.h"
#include "placement/plan.h"

namespace tandem {

// The memory through which steps of few rows get their inputs, and give their ids back, where a
// device leads (runtime/step_feed.h); in words of 4 bytes.
struct StepFeedShape {
  static constexpr std::int64_t kFlags = 64;    // cl::kFeedIds
  static constexpr std::int64_t kIdWords = 64;  // of a row: cl::kArgmaxParts
  static constexpr std::int64_t kControl = 16;  // on the device: cl::kFeedControlWords
  static constexpr std::int64_t kMostRows = 32;
  static constexpr std::int64_t kSlots = 2;

  StepFeedShape() = default;
  StepFeedShape(const Config& config, const Plan& plan);

  std::int64_t rows = 0;         // of a step, at the most
  std::int64_t D = 0;            // hidden_size
  std::int64_t batch_words = 0;  // of a step's batch, at the most

  // A slot: a step's batch, then its rows.
  constexpr std::int64_t first_slot() const { return kFlags + rows * kIdWords; }
  constexpr std::int64_t first_row() const { return WholeBlocks(batch_words); }  // in a slot
  constexpr std::int64_t slot() const { return first_row() + WholeBlocks(rows * D); }
  constexpr std::int64_t words() const { return first_slot() + kSlots * slot(); }

 private:
  static constexpr std::int64_t WholeBlocks(std::int64_t n) { return (n + 31) / 32 * 32; }
};

// Whether a plan may have such steps: one device computes everything, but that the host embeds and
// may have experts.
bool DeviceLeads(const Plan& plan);

// Whether it has them; with Plan::step_ahead auto only if the device then has memory that both see.
bool StepsAhead(const Plan& plan);

}  // namespace tandem
