#include "model/tokenizer_added.h"

#include "model/pre_tokenizer_unicode.h"
#include "model/utf8.h"

namespace tandem {
namespace {

std::uint64_t Edge(std::uint32_t node, char byte) {
  return (std::uint64_t{node} << 8) | static_cast<unsigned char>(byte);
}

bool IsTrail(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

bool IsBlank(std::string_view text) {
  return StepUtf8(text).kind == Utf8Step::Kind::kCharacter && IsWhiteSpace(CodePoint(text));
}

// Bytes of white space at the end of `text`.
std::size_t BlankEnd(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0) {
    std::size_t at = begin - 1;
    while (at > 0 && begin - at < 4 && IsTrail(text[at])) --at;
    const std::string_view last = text.substr(at, begin - at);
    if (!IsBlank(last) || StepUtf8(last).length != last.size()) break;
    begin = at;
  }
  return text.size() - begin;
}

std::size_t BlankBegin(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() && IsBlank(text.substr(end))) end += StepUtf8(text.substr(end)).length;
  return end;
}

}  // namespace

void AddedTokenMatcher::Add(const AddedToken& token) {
  std::uint32_t node = 0;
  for (const char byte : token.content) {
    const auto next = static_cast<std::uint32_t>(token_of_node_.size());
    const auto [child, is_new] = children_.emplace(Edge(node, byte), next);
    if (is_new) token_of_node_.push_back(-1);
    node = child->second;
  }
  begins_[static_cast<unsigned char>(token.content[0])] = true;
  token_of_node_[node] = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.lstrip, token.rstrip});
}

AddedTokenMatcher::Found AddedTokenMatcher::LongestAt(std::string_view text) const {
  Found found;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(Edge(node, text[i]));
    if (child == children_.end()) break;
    node = child->second;
    if (token_of_node_[node] >= 0) found = {i + 1, token_of_node_[node]};
  }
  return found;
}

void AddedTokenMatcher::Split(std::string_view text, std::vector<TextPart>& parts) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const bool may_begin = begins_[static_cast<unsigned char>(text[at])];
    const Found found = may_begin ? LongestAt(text.substr(at)) : Found{};
    if (found.token < 0) {
      ++at;
      continue;
    }
    const Token& token = tokens_[static_cast<std::size_t>(found.token)];
    const std::size_t blank = token.lstrip ? BlankEnd(text.substr(done, at - done)) : 0;
    std::size_t end = at + found.length;
    if (token.rstrip) end += BlankBegin(text.substr(end));
    if (at - blank > done) parts.push_back({text.substr(done, at - blank - done)});
    parts.push_back({text.substr(at - blank, end - at + blank), token.id});
    done = at = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done)});
}

}  // namespace tandem
