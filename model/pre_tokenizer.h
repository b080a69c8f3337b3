#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "model/pre_tokenizer_regex.h"

namespace tandem {

// What becomes of the matches of a Split pre-tokenizer; the names are the file's.
enum class SplitBehavior : std::uint8_t {
  kIsolated,            // each match is a piece, and so is what lies between
  kRemoved,             // matches are dropped
  kMergedWithPrevious,  // a match ends the piece before it
  kMergedWithNext,      // a match begins the piece after it
  kContiguous,          // neighbouring matches are one piece
};

struct SplitStage {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;        // what lies between the matches counts as the match
  bool prefix_space = false;  // ByteLevel's add_prefix_space, done before the split
};

// The pieces of a text that are encoded each on its own: every stage splits the pieces of the one
// before, and sees nothing of the neighbours of a piece.
class PreTokenizer {
 public:
  void Add(SplitStage stage) { stages_.push_back(std::move(stage)); }
  // For a ByteLevel that puts a space before each piece, but splits nothing.
  void AddPrefixSpace() { prefix_space_ = true; }

  // Pieces point into `text`, which must be valid UTF-8, or into `added` where a space was put
  // before.
  std::vector<std::string_view> Split(std::string_view text, RegexScratch& scratch,
                                      std::deque<std::string>& added) const;

 private:
  std::vector<SplitStage> stages_;
  bool prefix_space_ = false;
};

}  // namespace tandem
