#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "placement/statistics.h"

namespace tandem {

// Counts the router's choices of one phase over one text, and how soon experts come back.
class StatisticsCounter {
 public:
  StatisticsCounter(Phase phase, std::int64_t layers, std::int64_t experts,
                    std::int64_t experts_per_token);

  // The choices of the step's tokens in one layer, [T, K], strongest first.
  void Add(std::int64_t layer, std::span<const std::int32_t> ids);
  // After all layers of a step of `tokens` tokens.
  void EndStep(std::int64_t tokens);

  const RoutingCounts& counts() const { return counts_; }

 private:
  // The experts that a layer has used so far, in the order in which each kind of cache keeps them.
  struct Orders {
    std::vector<std::int32_t> recent;    // latest used first
    std::vector<std::int32_t> frequent;  // most often used first; ties: latest used first
  };
  void AddToken(std::size_t layer, std::span<const std::int32_t> ids);
  void CountChunk(std::size_t layer, std::span<const std::int32_t> ids);
  void Use(std::size_t layer, std::int32_t expert);

  Phase phase_;
  std::size_t experts_;
  std::size_t experts_per_token_;
  RoutingCounts counts_;
  std::vector<Orders> orders_;  // [layers]
};

}  // namespace tandem
