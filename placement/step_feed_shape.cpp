#include "placement/step_feed_shape.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "memory/error.h"

namespace tandem {

StepFeedShape::StepFeedShape(const Config& c, const Plan& plan)
    : rows(std::min(plan.max_rows, kMostRows)),
      D(c.hidden_size),
      batch_words(BatchWords(c, plan, rows)) {}

bool StepsAhead() {
  const char* text = std::getenv("TANDEM_STEP_AHEAD");
  const std::string_view wish = text == nullptr ? "" : text;
  if (wish == "on") return true;
  if (wish.empty() || wish == "off") return false;
  Throw<ConfigError>("TANDEM_STEP_AHEAD: expected 'on' or 'off', found '{}'", wish);
}

bool OnlyEmbeds(const Plan& plan, const ScratchUse& host) {
  const bool computes = host.attention || host.mlp || host.router || host.experts || host.head;
  return plan.devices.size() == 1 && !computes && plan.cache.slots == 0 && !plan.stream_prefill;
}

}  // namespace tandem
