#include "runtime/stop.h"

#include <algorithm>
#include <utility>

#include "memory/error.h"

namespace tandem {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) throw UsageError("--stop: expected a text, found an empty one");
  }
}

std::string StopFilter::Push(std::string_view text) {
  if (stopped_) return {};
  for (std::size_t i = 0; i < text.size(); ++i) {
    pending_ += text[i];
    const std::size_t found = StopAtEnd();
    if (found == 0) continue;
    stopped_ = true;
    rest_ = text.substr(i + 1);
    pending_.resize(pending_.size() - found);
    return std::exchange(pending_, {});
  }
  const std::size_t certain = pending_.size() - BytesToHold();
  std::string out = pending_.substr(0, certain);
  pending_.erase(0, certain);
  return out;
}

std::string StopFilter::Finish() { return std::exchange(pending_, {}); }

// Length of the longest stop string that the pending text ends with, 0 if none.
std::size_t StopFilter::StopAtEnd() const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    if (std::string_view(pending_).ends_with(stop)) longest = std::max(longest, stop.size());
  }
  return longest;
}

// Length of the longest end of the pending text that is the beginning of a stop string.
std::size_t StopFilter::BytesToHold() const {
  const std::string_view pending = pending_;
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, pending.size()); n > longest; --n) {
      if (pending.ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

}  // namespace tandem
