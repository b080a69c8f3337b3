#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace tandem {

// How well a model predicts a text, and how far its predictions are from those of another.

// A text is cut into windows of `length` tokens, each a sequence of its own: BOS, where there is
// one, and the next length - 1 tokens; the text goes on `length` tokens later. What is left at the
// end is dropped, but a text shorter than a window is one window.
std::vector<std::vector<std::int32_t>> CutWindows(std::span<const std::int32_t> ids,
                                                  std::int64_t length,
                                                  std::optional<std::int32_t> bos);
using Windows = std::vector<std::vector<std::int32_t>>;

// Tokens of the windows that are predicted: all but the first of each.
std::int64_t Predictions(const Windows& windows);

// The natural logarithms of the probabilities that logits stand for: out = logits - log sum exp.
void LogProbabilities(std::span<const float> logits, std::span<double> out);

// Negative log likelihood of a text, per token.
struct Likelihood {
  std::int64_t tokens = 0;
  double nll = 0;
  double nll_error = 0;  // standard error of the mean, as if tokens were independent

  double perplexity() const;
  double perplexity_error() const;
};

// Of the predictions of the reference P and of a model Q.
struct Divergence {
  double mean = 0;      // Kullback-Leibler divergence sum p log(p / q) of a token, in nats
  double error = 0;     // standard error of the mean
  double p99 = 0;       // 99 of 100 tokens have no more than that
  double highest = 0;   // of all tokens
  double same_top = 0;  // share of tokens for which both have the same most likely one
};

class LikelihoodSum {
 public:
  void Add(double log_probability_of_target);
  Likelihood Result() const;

 private:
  std::vector<double> nll_;
};

class DivergenceSum {
 public:
  void Add(std::span<const double> reference, std::span<const double> model);
  Divergence Result() const;

 private:
  std::vector<double> divergence_;
  std::int64_t same_top_ = 0;
};

struct PredictOptions {
  std::function<bool()> interrupted;                                    // asked between steps
  std::function<void(std::int64_t done, std::int64_t total)> progress;  // in tokens
};

// Takes the logits [V] of one prediction and the token that came; in the order of the windows.
using PredictionSink = std::function<void(std::span<const float> logits, std::int32_t target)>;

// Runs all windows through the engine. Throws UsageError for windows that no sequence has room for,
// and an Error (130) when interrupted.
void Predict(Engine& engine, const Windows& windows, const PredictOptions& options,
             const PredictionSink& sink);

// What `tandem perplexity` found.
struct PerplexityReport {
  std::string model;
  std::string against;  // empty: no reference
  std::int64_t windows = 0;
  std::int64_t window = 0;
  Likelihood likelihood = {};
  Likelihood reference = {};
  Divergence divergence = {};
};
std::string PerplexityText(const PerplexityReport& report);
std::string PerplexityJson(const PerplexityReport& report);

}  // namespace tandem
