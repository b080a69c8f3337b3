#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Passes text on until a stop string appears, and never emits a stop string or a part of one that
// may still become whole. What comes out does not depend on how the text was cut into pieces: the
// stop string that ends first wins, the longest one if several end there.
class StopFilter {
 public:
  // Throws UsageError for an empty stop string.
  explicit StopFilter(std::vector<std::string> stops);

  // Text that is certain now. Empty once stopped.
  std::string Push(std::string_view text);
  // What was held back, at the end of the text.
  std::string Finish();
  bool stopped() const { return stopped_; }
  // What followed the stop string in the piece that completed it.
  const std::string& rest() const { return rest_; }

 private:
  std::size_t StopAtEnd() const;
  std::size_t BytesToHold() const;

  std::vector<std::string> stops_;
  std::string pending_;
  std::string rest_;
  bool stopped_ = false;
};

}  // namespace tandem
