#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace tandem {

// How the next token is chosen. The filters apply in the order of the fields.
struct SamplerOptions {
  double temperature = 0;  // 0: greedy, the lowest id on a tie
  std::int64_t top_k = 0;  // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off; keeps tokens of at least min_p times the best probability
  std::uint64_t seed = 0;
};

// Throws UsageError naming the flag, its range and what was given.
void CheckSampler(const SamplerOptions& options);

// xoshiro256**, seeded by splitmix64: the same numbers on every platform, which the distributions
// of <random> do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed);
  std::uint64_t Next();
  double Uniform();  // [0, 1), 53 bits

 private:
  std::array<std::uint64_t, 4> state_;
};

// The id of the largest logit, the lowest one on a tie. Throws as Sampler::Sample.
std::int32_t GreedyToken(std::span<const float> logits);

// Chooses a token from logits. The same options and logits give the same tokens.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);  // throws as CheckSampler

  // The id of the next token. A logit of -inf is a token that is not allowed. Throws Error (70) for
  // a NaN or +inf, and if no token is allowed.
  std::int32_t Sample(std::span<const float> logits);

 private:
  struct Candidate {
    double weight = 0;  // exp((logit - largest) / temperature)
    std::int32_t id = 0;
  };
  void FillCandidates(std::span<const float> logits, float largest);
  std::size_t SortBest();
  std::int32_t Draw(std::size_t count);

  SamplerOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;
};

}  // namespace tandem
