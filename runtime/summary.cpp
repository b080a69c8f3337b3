#include "runtime/summary.h"

#include <fmt/format.h>

namespace tandem {

std::string TokensPerSecond(std::int64_t tokens, double seconds) {
  if (tokens < 1 || seconds <= 0) return "-";
  return fmt::format("{:.1f} tokens/s", static_cast<double>(tokens) / seconds);
}

std::string StepsAheadText(const Metrics& m) {
  return fmt::format("{} of {} decode steps enqueued ahead", m.steps_ahead, m.decode_steps);
}

std::string Summary(const Generated& g, const std::string& what_ran_where) {
  const std::string first =
      g.first_token_s > 0 ? fmt::format("{:.3f} s", g.first_token_s) : std::string("-");
  return fmt::format(
      "prompt {} tokens, prefill {}; generated {} tokens ({}), decode {}; first token after {}; {}",
      g.prompt_tokens, TokensPerSecond(g.prompt_tokens, g.prefill_s), g.ids.size(), Name(g.finish),
      TokensPerSecond(g.decode_steps, g.decode_s), first, what_ran_where);
}

}  // namespace tandem
