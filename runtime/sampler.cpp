#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr double kMaxTemperature = 100;

void CheckRange(const char* flag, double value, bool inside, const char* range) {
  if (!inside) Throw<UsageError>("{}: expected a number in {}, found {}", flag, range, value);
}

std::int32_t Argmax(std::span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
  return static_cast<std::int32_t>(best - logits.begin());
}

// A NaN fails every comparison, so a plain search for the largest would pass over it.
float CheckedLargest(std::span<const float> logits) {
  TANDEM_CHECK(!logits.empty());
  float largest = -INFINITY;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      throw Error(ExitCode::kInternal,
                  fmt::format("non-finite logits: {} for token {}; check the weights, or run with "
                              "--precision exact",
                              logits[i], i));
    }
    largest = std::max(largest, logits[i]);
  }
  if (largest == -INFINITY) {
    throw Error(ExitCode::kInternal,
                fmt::format("no allowed token: all {} logits are -inf", logits.size()));
  }
  return largest;
}

}  // namespace

void CheckSampler(const SamplerOptions& o) {
  CheckRange("--temperature", o.temperature, o.temperature >= 0 && o.temperature <= kMaxTemperature,
             "[0, 100]");
  CheckRange("--top-p", o.top_p, o.top_p > 0 && o.top_p <= 1, "(0, 1]");
  CheckRange("--min-p", o.min_p, o.min_p >= 0 && o.min_p <= 1, "[0, 1]");
  if (o.top_k < 0) Throw<UsageError>("--top-k: expected 0 (off) or more, found {}", o.top_k);
}

Random::Random(std::uint64_t seed) : state_{} {
  for (std::uint64_t& word : state_) {
    seed += 0x9E3779B97F4A7C15U;
    std::uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    word = z ^ (z >> 31);
  }
}

std::uint64_t Random::Next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  CheckSampler(options);
}

std::int32_t GreedyToken(std::span<const float> logits) {
  static_cast<void>(CheckedLargest(logits));
  return Argmax(logits);
}

std::int32_t Sampler::Sample(std::span<const float> logits) {
  const float largest = CheckedLargest(logits);
  if (options_.temperature == 0) return Argmax(logits);
  FillCandidates(logits, largest);
  const bool filtered = options_.top_k > 0 || options_.top_p < 1;
  return Draw(filtered ? SortBest() : candidates_.size());
}

// The largest logit is subtracted before the division, so that the exponent is at most 0 and a tiny
// temperature gives weights 1 and 0, never an overflow. min_p is a bound on the weight itself,
// since the best weight is 1; being independent of order, it may come first.
void Sampler::FillCandidates(std::span<const float> logits, float largest) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double below = static_cast<double>(logits[i]) - static_cast<double>(largest);
    const double weight = std::exp(below / options_.temperature);
    if (weight > 0 && weight >= options_.min_p) {
      candidates_.push_back({weight, static_cast<std::int32_t>(i)});
    }
  }
}

// Moves the candidates that top_k and top_p keep to the end, best last, and gives their count. A
// heap yields the best one by one: of 129,280 tokens usually a few dozen are needed.
std::size_t Sampler::SortBest() {
  const auto worse = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.id > b.id;
  };
  double total = 0;
  const bool has_top_k =
      options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < candidates_.size();
  const std::size_t most =
      has_top_k ? static_cast<std::size_t>(options_.top_k) : candidates_.size();
  if (has_top_k) {  // top_p is a share of what top_k left
    const auto nth = candidates_.begin() + static_cast<std::ptrdiff_t>(most);
    std::nth_element(candidates_.begin(), nth, candidates_.end(),
                     [&](const Candidate& a, const Candidate& b) { return worse(b, a); });
    candidates_.erase(nth, candidates_.end());
  }
  for (const Candidate& c : candidates_) total += c.weight;
  std::make_heap(candidates_.begin(), candidates_.end(), worse);
  double kept = 0;
  std::size_t count = 0;
  while (count < most && (count == 0 || kept < options_.top_p * total)) {
    std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(count),
                  worse);
    ++count;
    kept += candidates_[candidates_.size() - count].weight;
  }
  return count;
}

// One of the last `count` candidates, by weight.
std::int32_t Sampler::Draw(std::size_t count) {
  const std::span<const Candidate> kept = std::span(candidates_).last(count);
  double total = 0;
  for (const Candidate& c : kept) total += c.weight;
  double target = random_.Uniform() * total;
  for (const Candidate& c : kept) {
    target -= c.weight;
    if (target < 0) return c.id;
  }
  return kept.back().id;  // rounding alone can lead here
}

}  // namespace tandem
