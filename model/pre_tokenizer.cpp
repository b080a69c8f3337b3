#include "model/pre_tokenizer.h"

#include <fmt/format.h>

#include "model/utf8.h"

namespace tandem {
namespace {

struct Part {
  std::string_view text;
  bool match;
};

// The text cut at all matches. An empty match right behind the last one does not count; any other
// is an empty part, which separates its neighbours for the merging behaviours.
void Cut(std::string_view text, const SplitStage& stage, RegexScratch& scratch,
         std::vector<Part>& parts) {
  std::size_t from = 0;
  std::size_t last_end = 0;
  bool any = false;
  while (from <= text.size()) {
    const auto match = stage.regex.Find(text, from, scratch);
    if (!match) break;
    if (match->begin == match->end && any && match->end == last_end) {
      from += from < text.size() ? StepUtf8(text.substr(from)).length : 1;
      continue;
    }
    if (match->begin > last_end) {
      parts.push_back({text.substr(last_end, match->begin - last_end), stage.invert});
    }
    parts.push_back({text.substr(match->begin, match->end - match->begin), !stage.invert});
    from = last_end = match->end;
    any = true;
  }
  if (last_end < text.size()) parts.push_back({text.substr(last_end), stage.invert});
}

// Parts are neighbours in one text, so that two join by their outer ends.
std::string_view Joined(std::string_view first, std::string_view second) {
  return {first.data(), first.size() + second.size()};
}

void JoinForward(const std::vector<Part>& parts, bool contiguous,
                 std::vector<std::string_view>& pieces) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool after_match = i > 0 && parts[i - 1].match;
    const bool join = contiguous ? parts[i].match == after_match : parts[i].match && !after_match;
    if (i > 0 && join) {
      pieces.back() = Joined(pieces.back(), parts[i].text);
    } else {
      pieces.push_back(parts[i].text);
    }
  }
}

void JoinWithNext(const std::vector<Part>& parts, std::vector<std::string_view>& pieces) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool join = i > 0 && parts[i - 1].match && !parts[i].match;
    if (join) {
      pieces.back() = Joined(pieces.back(), parts[i].text);
    } else {
      pieces.push_back(parts[i].text);
    }
  }
}

void Behave(const std::vector<Part>& parts, SplitBehavior behavior,
            std::vector<std::string_view>& pieces) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
    case SplitBehavior::kRemoved:
      for (const Part& part : parts) {
        if (behavior == SplitBehavior::kIsolated || !part.match) pieces.push_back(part.text);
      }
      return;
    case SplitBehavior::kContiguous:
      return JoinForward(parts, true, pieces);
    case SplitBehavior::kMergedWithPrevious:
      return JoinForward(parts, false, pieces);
    case SplitBehavior::kMergedWithNext:
      return JoinWithNext(parts, pieces);
  }
}

void PutSpaceBefore(std::vector<std::string_view>& pieces, std::deque<std::string>& added) {
  for (std::string_view& piece : pieces) {
    if (piece.starts_with(' ')) continue;
    added.push_back(fmt::format(" {}", piece));
    piece = added.back();
  }
}

}  // namespace

std::vector<std::string_view> PreTokenizer::Split(std::string_view text, RegexScratch& scratch,
                                                  std::deque<std::string>& added) const {
  std::vector<std::string_view> pieces = {text};
  std::vector<std::string_view> next;
  std::vector<Part> parts;
  for (const SplitStage& stage : stages_) {
    if (stage.prefix_space) PutSpaceBefore(pieces, added);
    next.clear();
    for (const std::string_view piece : pieces) {
      parts.clear();
      Cut(piece, stage, scratch, parts);
      Behave(parts, stage.behavior, next);
    }
    std::erase_if(next, [](std::string_view piece) { return piece.empty(); });
    pieces.swap(next);
  }
  if (prefix_space_) PutSpaceBefore(pieces, added);
  return pieces;
}

}  // namespace tandem
