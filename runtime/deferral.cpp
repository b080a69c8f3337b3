#include "runtime/deferral.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/tokenizer.h"
#include "runtime/engine.h"
#include "runtime/perplexity.h"

namespace tandem {
namespace {

// The logits of so many tokens of 129,280 words are 16 MiB, for as long as this takes.
constexpr std::size_t kTokens = 32;

constexpr const char* kText =
    "The river left the hills in spring, brown with melted snow, and by the time it reached the "
    "town it had slowed to a walk. Children counted the barges from the bridge: one, two, three, "
    "then none for an hour.";

class Comparison {
 public:
  explicit Comparison(std::size_t vocab) : p_(vocab), q_(vocab) {}

  void Add(std::span<const float> without, std::span<const float> with) {
    LogProbabilities(without, p_);
    LogProbabilities(with, q_);
    divergence_.Add(p_, q_);
    const auto top = [](std::span<const float> l) {
      return std::ranges::max_element(l) - l.begin();
    };
    effect_.same += top(without) == top(with) ? 1 : 0;
    ++effect_.tokens;
    for (std::size_t i = 0; i < with.size(); ++i) {
      effect_.largest = std::max(effect_.largest, std::abs(double{with[i]} - without[i]));
    }
  }

  DeferralEffect Result() {
    effect_.divergence = divergence_.Result().mean;
    return effect_;
  }

 private:
  std::vector<double> p_, q_;
  DivergenceSum divergence_;
  DeferralEffect effect_;
};

// A sequence that is freed whatever happens; an engine that is gone has none.
class ProbeSequence {
 public:
  explicit ProbeSequence(Engine& engine) : engine_(engine), id_(engine.NewSequence()) {}
  ~ProbeSequence() { engine_.FreeSequence(id_); }
  ProbeSequence(const ProbeSequence&) = delete;
  ProbeSequence& operator=(const ProbeSequence&) = delete;
  std::span<const float> Step(std::int32_t token) {
    const Row row{id_, position_++, token, true};
    return engine_.Step({&row, 1});
  }

 private:
  Engine& engine_;
  std::int32_t id_;
  std::int32_t position_ = 0;
};

}  // namespace

std::string ToText(const DeferralEffect& e) {
  return fmt::format(
      "deferral of the CPU's sum: {} of {} greedy tokens agree with those without it, mean KL "
      "divergence {:.3g} nats, largest difference of a logit {:.3g}",
      e.same, e.tokens, e.divergence, e.largest);
}

std::vector<std::int32_t> DeferralTokens(const Model& model) {
  const std::int64_t vocab = model.config.vocab_size;
  std::vector<std::int32_t> tokens;
  if (!model.path.empty() && HasTokenizer(model.path)) {
    tokens = ReadTokenizer(model.path, vocab).Encode(kText);
  }
  // Multiplying by an odd constant scatters; the high bits are the better ones.
  for (std::uint32_t i = 1; tokens.size() < kTokens; ++i) {
    tokens.push_back(static_cast<std::int32_t>((i * 2654435761U >> 8) % vocab));
  }
  tokens.resize(kTokens);
  return tokens;
}

DeferralEffect MeasureDeferral(Engine& engine, const std::vector<std::int32_t>& tokens,
                               const std::function<void(bool)>& defer,
                               const std::function<void()>& check) {
  const auto vocab = static_cast<std::size_t>(engine.config().vocab_size);
  std::vector<float> without;
  without.reserve(tokens.size() * vocab);
  const auto run = [&](bool deferred, const auto& take) {
    defer(deferred);
    ProbeSequence sequence(engine);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      check();
      take(i, sequence.Step(tokens[i]));
    }
  };
  run(false, [&](std::size_t, std::span<const float> logits) {
    without.insert(without.end(), logits.begin(), logits.end());
  });
  Comparison comparison(vocab);
  run(true, [&](std::size_t i, std::span<const float> logits) {
    comparison.Add(std::span(without).subspan(i * vocab, vocab), logits);
  });
  return comparison.Result();
}

}  // namespace tandem
