#include "runtime/calibrate.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "memory/error.h"
#include "placement/statistics_counter.h"

namespace tandem {
namespace {

// Hands the router's choices of a step to the counter of its phase.
class RouterObserver final : public StepObserver {
 public:
  explicit RouterObserver(StatisticsCounter& counter) : counter_(counter) {}
  void OnHidden(int, std::span<const float>) override {}
  void OnRouter(int layer, std::span<const std::int32_t> ids, std::span<const float>) override {
    counter_.Add(layer, ids);
  }

 private:
  StatisticsCounter& counter_;
};

// A sequence that is given back at the end.
struct Sequence {
  explicit Sequence(Engine& e) : engine(e), id(e.NewSequence()) {}
  ~Sequence() { engine.FreeSequence(id); }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;
  Engine& engine;
  std::int32_t id;
};

StatisticsCounter CounterOf(Phase phase, const RoutingStatistics& s) {
  return {phase, s.layers, s.experts, s.experts_per_token};
}

// BOS is one of the prompt's tokens: a prompt of 512 is a chunk of 512, not one of 512 and one
// of 1.
std::vector<CalibrationPiece> Pieces(const CalibrationText& text, const CalibrationOptions& o) {
  return CutText(text.ids, o.prompt_tokens - (o.bos ? 1 : 0), o.generate > 0 ? 0 : o.answer_tokens);
}

// The state of one call of Calibrate.
class Run {
 public:
  Run(Engine& engine, const CalibrationOptions& options, Calibration& out)
      : engine_(engine), options_(options), sampler_(options.sampler), out_(out) {}

  RoutingDomain Count(const CalibrationText& text) {
    StatisticsCounter prefill = CounterOf(Phase::kPrefill, out_.statistics);
    StatisticsCounter decode = CounterOf(Phase::kDecode, out_.statistics);
    for (const CalibrationPiece& piece : Pieces(text, options_)) {
      if (out_.interrupted) break;
      CountPiece(piece, prefill, decode);
    }
    return {.name = text.name, .phases = {prefill.counts(), decode.counts()}};
  }

 private:
  void CountPiece(const CalibrationPiece& piece, StatisticsCounter& prefill,
                  StatisticsCounter& decode) {
    const Sequence sequence(engine_);
    std::vector<std::int32_t> prompt(piece.prompt.begin(), piece.prompt.end());
    if (options_.bos) prompt.insert(prompt.begin(), *options_.bos);
    const std::span<const float> logits = Feed(sequence.id, prompt, prefill);
    if (options_.generate > 0) {
      Generate(sequence.id, logits, decode);
    } else {
      Feed(sequence.id, piece.answer, decode);
    }
  }

  // Feeds tokens in steps as long as the plan allows, and gives the logits after the last one.
  // Empty once interrupted.
  std::span<const float> Feed(std::int32_t sequence, std::span<const std::int32_t> ids,
                              StatisticsCounter& counter) {
    std::span<const float> logits;
    while (!ids.empty()) {
      if (Stopped()) return {};
      const auto count = std::min(ids.size(), static_cast<std::size_t>(engine_.plan().max_rows));
      logits = Step(sequence, ids.first(count), counter);
      ids = ids.subspan(count);
    }
    return logits;
  }

  std::span<const float> Step(std::int32_t sequence, std::span<const std::int32_t> ids,
                              StatisticsCounter& counter) {
    auto position = static_cast<std::int32_t>(engine_.Length(sequence));
    std::vector<Row> rows;
    for (const std::int32_t id : ids) rows.push_back({sequence, position++, id, false});
    rows.back().wants_logits = true;
    RouterObserver observer(counter);
    const std::span<const float> logits = engine_.Step(rows, &observer);
    counter.EndStep(std::ssize(ids));
    out_.tokens += std::ssize(ids);
    if (options_.progress) options_.progress(out_.tokens, out_.total);
    return logits;
  }

  void Generate(std::int32_t sequence, std::span<const float> logits, StatisticsCounter& decode) {
    const std::vector<std::int32_t>& eos = engine_.config().eos_token_ids;
    for (std::int64_t i = 0; i < options_.generate && !logits.empty() && !Stopped(); ++i) {
      const std::int32_t id = sampler_.Sample(logits);
      if (std::ranges::find(eos, id) != eos.end()) return;
      logits = Step(sequence, {&id, 1}, decode);
    }
  }

  bool Stopped() {
    out_.interrupted = out_.interrupted || (options_.interrupted && options_.interrupted());
    return out_.interrupted;
  }

  Engine& engine_;
  const CalibrationOptions& options_;
  Sampler sampler_;
  Calibration& out_;
};

std::int64_t LongestPiece(const CalibrationOptions& o) {
  return o.prompt_tokens + (o.generate > 0 ? o.generate : o.answer_tokens);
}

void CheckPieces(const Engine& engine, const CalibrationOptions& options) {
  const Config& config = engine.config();
  const std::int64_t room = std::min(engine.FreeTokens(), config.max_position_embeddings);
  const std::int64_t least = options.bos ? 2 : 1;
  if (options.prompt_tokens < least || options.answer_tokens < 0) {
    Throw<UsageError>("--prompt-tokens: expected {} or more, found {}", least,
                      options.prompt_tokens);
  }
  if (LongestPiece(options) > room) {
    Throw<UsageError>(
        "pieces of {} tokens (prompt and answer), but a sequence has room for {}: lower "
        "--prompt-tokens, --answer-tokens or --generate, or raise --ctx",
        LongestPiece(options), room);
  }
}

// Tokens that a text will be counted with, if no answer ends early.
std::int64_t TokensOf(const CalibrationText& text, const CalibrationOptions& o) {
  const std::int64_t pieces = std::ssize(Pieces(text, o));
  return std::ssize(text.ids) + pieces * (o.generate + (o.bos ? 1 : 0));
}

}  // namespace

RoutingStatistics EmptyStatistics(const Model& model) {
  const Config& c = model.config;
  RoutingStatistics s;
  for (std::int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    if (c.IsMoeLayer(layer)) s.experts = c.n_routed_experts;
  }
  if (s.experts == 0) {
    Throw<UsageError>("{}: has no routed experts, so there is nothing to calibrate", model.name);
  }
  s.model = model.name;
  s.fingerprint = ModelFingerprint(c, model.tensors);
  s.layers = c.num_hidden_layers;
  s.experts_per_token = c.num_experts_per_tok;
  return s;
}

std::vector<CalibrationPiece> CutText(std::span<const std::int32_t> ids, std::int64_t prompt,
                                      std::int64_t answer) {
  std::vector<CalibrationPiece> pieces;
  const auto whole = static_cast<std::size_t>(prompt + answer);
  while (!ids.empty()) {
    const std::size_t size = std::min(whole, ids.size());
    const std::size_t answers = size * static_cast<std::size_t>(answer) / whole;
    pieces.push_back({ids.first(size - answers), ids.subspan(size - answers, answers)});
    ids = ids.subspan(size);
  }
  return pieces;
}

Calibration Calibrate(Engine& engine, const RoutingStatistics& empty,
                      std::span<const CalibrationText> texts, const CalibrationOptions& options) {
  CheckPieces(engine, options);
  Calibration out;
  out.statistics = empty;
  for (const CalibrationText& text : texts) {
    if (text.ids.empty()) Throw<UsageError>("{}: the text is empty", text.name);
    out.total += TokensOf(text, options);
  }
  Run run(engine, options, out);
  for (const CalibrationText& text : texts) {
    if (out.interrupted) break;
    out.statistics.domains.push_back(run.Count(text));
  }
  return out;
}

}  // namespace tandem
