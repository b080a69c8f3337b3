#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/tensor_list.h"

namespace tandem {

enum class Phase : std::uint8_t { kPrefill, kDecode };
inline constexpr int kNumPhases = 2;

// How often each expert was chosen in one phase over one kind of text. All K choices of a token are
// looked up before any of them counts as used: a runtime learns them at once. Lists that were not
// recorded are empty.
struct RoutingCounts {
  std::int64_t tokens = 0;
  std::vector<std::vector<std::uint64_t>> counts;  // [layers][experts]; empty for dense layers
  // Stack distances of an expert's reuse in its layer's stream of tokens: distances[l][d] choices
  // had d other experts chosen since the same expert was last; the last entry: first uses.
  std::vector<std::vector<std::uint64_t>> distances;  // [layers][experts + 1]
  // Ranks by frequency: ranks[l][r] choices fell on an expert with r others before it in the order
  // of how often each was chosen until then (ties: the later used one first); last: first uses.
  std::vector<std::vector<std::uint64_t>> ranks;  // [layers][experts + 1]
  // Steps that these tokens were computed in, and in how many of them an expert was chosen at all:
  // how often its weights were needed. In decode every token is a step, so that these are `counts`.
  std::int64_t chunks = 0;
  std::vector<std::vector<std::uint64_t>> chunk_uses;  // [layers][experts]
};

struct RoutingDomain {
  std::string name;  // of the text
  RoutingCounts phases[kNumPhases];
};

// Routing statistics of a model, made by `tandem calibrate`.
struct RoutingStatistics {
  std::string model;        // name, for people
  std::string fingerprint;  // ModelFingerprint
  std::int64_t layers = 0;
  std::int64_t experts = 0;
  std::int64_t experts_per_token = 0;
  std::vector<RoutingDomain> domains;

  // Share of a layer's choices that fall on each expert, summing to 1, over all domains of a phase
  // (both phases where that one has no tokens); uniform where a layer was never counted.
  std::vector<double> Shares(Phase phase, std::int64_t layer) const;
  // A phase of all domains together.
  RoutingCounts Total(Phase phase) const;
};

// A hash over architecture fields and the tensors' names, shapes and types, not over the weights.
// 16 hexadecimal digits.
std::string ModelFingerprint(const Config& config, const TensorList& tensors);

// JSON, versioned. Reading throws CheckpointError (65) naming file and field for a damaged or newer
// file, SystemError (66) if absent; writing SystemError (74).
RoutingStatistics ReadStatistics(const std::string& file);
void WriteStatistics(const RoutingStatistics& statistics, const std::string& file);
RoutingStatistics ParseStatistics(const std::string& json, const std::string& file);
std::string ToJson(const RoutingStatistics& statistics);

// Adds counts, domain by domain. Throws ConfigError if the two are of different models.
void Merge(RoutingStatistics& into, const RoutingStatistics& from);

// Throws ConfigError if the statistics were not made with this model.
void CheckStatistics(const RoutingStatistics& statistics, const Config& config,
                     const TensorList& tensors, const std::string& file);

}  // namespace tandem
