#include "runtime/perplexity.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "memory/error.h"
#include "runtime/interrupt.h"

namespace tandem {
namespace {

struct Mean {
  double value = 0;
  double error = 0;
};

// The mean and its standard error, in two passes: a sum of squares would lose the small ones.
Mean MeanOf(const std::vector<double>& values) {
  Mean mean;
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return mean;
  for (const double v : values) mean.value += v / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean.value) * (v - mean.value);
  if (values.size() > 1) mean.error = std::sqrt(squares / (n - 1) / n);
  return mean;
}

std::size_t Top(std::span<const double> log_probabilities) {
  return static_cast<std::size_t>(std::ranges::max_element(log_probabilities) -
                                  log_probabilities.begin());
}

// The rows of a window's next step. The last token predicts nothing that could be checked.
std::vector<Row> RowsOf(std::int32_t sequence, const std::vector<std::int32_t>& window,
                        std::size_t first, std::size_t count) {
  std::vector<Row> rows;
  for (std::size_t i = first; i < first + count; ++i) {
    rows.push_back({sequence, static_cast<std::int32_t>(i), window[i], i + 1 < window.size()});
  }
  return rows;
}

// A sequence that is given back at the end.
struct Sequence {
  explicit Sequence(Engine& e) : engine(e), id(e.NewSequence()) {}
  ~Sequence() { engine.FreeSequence(id); }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;
  Engine& engine;
  std::int32_t id;
};

void CheckRoom(const Engine& engine, const Windows& windows) {
  for (const std::vector<std::int32_t>& window : windows) {
    if (std::ssize(window) <= engine.FreeTokens()) continue;
    Throw<UsageError>("a window of {} tokens: the context has room for {}: lower --ctx",
                      window.size(), engine.FreeTokens());
  }
}

}  // namespace

Windows CutWindows(std::span<const std::int32_t> ids, std::int64_t length,
                   std::optional<std::int32_t> bos) {
  const auto whole = static_cast<std::size_t>(length);
  const std::size_t own = whole - (bos ? 1 : 0);  // tokens of the text in a window
  Windows windows;
  for (std::size_t at = 0; at + own <= ids.size() || windows.empty(); at += whole) {
    const auto text = ids.subspan(at, std::min(own, ids.size() - at));
    std::vector<std::int32_t> window(bos ? 1 : 0, bos.value_or(0));
    window.reserve(whole);
    for (const std::int32_t id : text) window.push_back(id);
    windows.push_back(std::move(window));
  }
  return windows;
}

std::int64_t Predictions(const Windows& windows) {
  std::int64_t count = 0;
  for (const std::vector<std::int32_t>& window : windows) count += std::ssize(window) - 1;
  return count;
}

void LogProbabilities(std::span<const float> logits, std::span<double> out) {
  const double highest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - highest);
  const double shift = highest + std::log(sum);
  for (std::size_t i = 0; i < logits.size(); ++i) out[i] = static_cast<double>(logits[i]) - shift;
}

double Likelihood::perplexity() const { return std::exp(nll); }

double Likelihood::perplexity_error() const { return std::exp(nll) * nll_error; }

void LikelihoodSum::Add(double log_probability_of_target) {
  nll_.push_back(-log_probability_of_target);
}

Likelihood LikelihoodSum::Result() const {
  const Mean mean = MeanOf(nll_);
  return {.tokens = std::ssize(nll_), .nll = mean.value, .nll_error = mean.error};
}

void DivergenceSum::Add(std::span<const double> reference, std::span<const double> model) {
  double sum = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = std::exp(reference[i]);
    if (p > 0) sum += p * (reference[i] - model[i]);  // the limit at p = 0 is 0
  }
  divergence_.push_back(std::max(0.0, sum));  // it is never below 0 but for roundings
  same_top_ += Top(reference) == Top(model) ? 1 : 0;
}

Divergence DivergenceSum::Result() const {
  Divergence result;
  if (divergence_.empty()) return result;
  const Mean mean = MeanOf(divergence_);
  std::vector<double> sorted = divergence_;
  std::ranges::sort(sorted);
  const auto n = static_cast<double>(sorted.size());
  const auto rank = static_cast<std::size_t>(std::ceil(0.99 * n)) - 1;
  return {.mean = mean.value,
          .error = mean.error,
          .p99 = sorted[rank],
          .highest = sorted.back(),
          .same_top = static_cast<double>(same_top_) / n};
}

void Predict(Engine& engine, const Windows& windows, const PredictOptions& options,
             const PredictionSink& sink) {
  CheckRoom(engine, windows);
  const auto vocab = static_cast<std::size_t>(engine.config().vocab_size);
  const auto chunk = static_cast<std::size_t>(engine.plan().max_rows);
  const std::int64_t total = Predictions(windows) + std::ssize(windows);
  std::int64_t done = 0;
  for (const std::vector<std::int32_t>& window : windows) {
    const Sequence sequence(engine);
    std::size_t next = 1;  // the token that the next logits predict
    const LogitsSink rows = [&](std::span<const float> logits) {
      for (std::size_t at = 0; at < logits.size(); at += vocab) {
        sink(logits.subspan(at, vocab), window[next++]);
      }
    };
    for (std::size_t first = 0; first < window.size(); first += chunk) {
      if (options.interrupted && options.interrupted()) ThrowInterrupted();
      const std::size_t count = std::min(chunk, window.size() - first);
      engine.Step(RowsOf(sequence.id, window, first, count), nullptr, &rows);
      done += static_cast<std::int64_t>(count);
      if (options.progress) options.progress(done, total);
    }
  }
}

}  // namespace tandem
