#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/tensor_source.h"
#include "placement/statistics.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"

namespace tandem {

// A text to count, as one domain of the statistics.
struct CalibrationText {
  std::string name;
  std::vector<std::int32_t> ids;
};

struct CalibrationOptions {
  // A text is cut into pieces of prompt and answer, each a sequence of its own. Prompts are counted
  // as prefill. Answers are counted as decode: the routing of a token depends on the tokens before
  // it alone, so that the text's own tokens give what decoding them one by one would give, in the
  // few steps of a prefill.
  std::int64_t prompt_tokens = 1024;
  std::int64_t answer_tokens = 256;
  // Above 0: the text is all prompts, and the model itself writes so many tokens after each; these
  // are decoded one by one.
  std::int64_t generate = 0;
  SamplerOptions sampler = {};
  std::optional<std::int32_t> bos = std::nullopt;  // first token of each prompt
  std::function<bool()> interrupted;               // asked between steps
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

struct Calibration {
  RoutingStatistics statistics;  // of the whole steps until the end or the interrupt
  std::int64_t tokens = 0;       // counted
  std::int64_t total = 0;        // that were to be counted
  bool interrupted = false;
};

// Statistics of a model with nothing counted yet. Throws UsageError if it has no routed experts.
RoutingStatistics EmptyStatistics(const Model& model);

// Runs the texts through the engine and counts. `empty` is of the engine's model. Throws UsageError
// for texts without tokens and for pieces longer than a sequence of the engine may be.
Calibration Calibrate(Engine& engine, const RoutingStatistics& empty,
                      std::span<const CalibrationText> texts, const CalibrationOptions& options);

// One piece of a text.
struct CalibrationPiece {
  std::span<const std::int32_t> prompt;
  std::span<const std::int32_t> answer;
};
// Pieces of `prompt` and `answer` tokens; the last one is what is left, divided in the same ratio.
std::vector<CalibrationPiece> CutText(std::span<const std::int32_t> ids, std::int64_t prompt,
                                      std::int64_t answer);

}  // namespace tandem
