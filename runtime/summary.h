#pragma once

#include <string>

#include "runtime/generate.h"
#include "runtime/metrics.h"

namespace tandem {

// The one line that ends a run: prompt tokens, prefill tokens/s, generated tokens and why they
// ended, decode tokens/s, time to the first token, and what ran where.
std::string Summary(const Generated& generated, const std::string& what_ran_where);

// "63 of 64 decode steps enqueued ahead", of engines with Engine::steps_ahead.
std::string StepsAheadText(const Metrics& metrics);

// "123.4 tokens/s", or "-" where nothing was timed.
std::string TokensPerSecond(std::int64_t tokens, double seconds);

}  // namespace tandem
