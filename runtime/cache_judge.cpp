#include "runtime/cache_judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tandem {

CacheJudge::Verdict CacheJudge::Step(std::int64_t rows, double seconds) {
  if (off_) return Verdict::kGoOn;
  if (rows != rows_) {  // not to be compared with those before
    rows_ = rows;
    steps_ = 0;
    sum_ = 0;
    const bool was_paused = std::exchange(paused_, false);
    return was_paused ? Verdict::kResume : Verdict::kGoOn;
  }
  ++steps_;
  // The first step of a pause still waits for copies that were under way.
  const bool counts = paused_ ? steps_ > 1 : steps_ > period_ - kSample;
  if (counts) sum_ += seconds;
  return paused_ ? Paused() : Serving();
}

CacheJudge::Verdict CacheJudge::Serving() {
  if (steps_ < period_) return Verdict::kGoOn;
  with_ = std::exchange(sum_, 0) / kSample;
  steps_ = 0;
  paused_ = true;
  return Verdict::kPause;
}

CacheJudge::Verdict CacheJudge::Paused() {
  if (steps_ < kSample + 1) return Verdict::kGoOn;
  without_ = std::exchange(sum_, 0) / kSample;
  steps_ = 0;
  paused_ = false;
  const bool lost = with_ > (1 + kMargin) * without_;
  losses_ = lost ? losses_ + 1 : 0;
  period_ = lost ? kFirstPeriod : std::min(2 * period_, kMostPeriod);
  off_ = losses_ >= kLosses;
  return off_ ? Verdict::kOff : Verdict::kResume;
}

std::string CacheJudge::Why() const {
  return fmt::format("a step took {:.3f} ms with it and {:.3f} ms without, twice in a row slower",
                     1000 * with_, 1000 * without_);
}

}  // namespace tandem
