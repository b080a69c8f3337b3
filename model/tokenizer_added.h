#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/tokenizer_spec.h"

namespace tandem {

// A part of a text: one token, or (id kText) text that is still to be encoded.
struct TextPart {
  static constexpr std::int32_t kText = -1;
  std::string_view text;
  std::int32_t id = kText;
};

// Finds added tokens in text: at each place the longest, from left to right. A trie over bytes, so
// the cost is the text's length times that of the longest token at most.
class AddedTokenMatcher {
 public:
  void Add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  // Appends the parts of `text` in order.
  void Split(std::string_view text, std::vector<TextPart>& parts) const;

 private:
  struct Token {
    std::int32_t id;
    bool lstrip;
    bool rstrip;
  };
  struct Found {
    std::size_t length = 0;
    std::int32_t token = -1;
  };
  Found LongestAt(std::string_view text) const;

  std::vector<Token> tokens_;
  std::vector<std::int32_t> token_of_node_ = {-1};             // by trie node; node 0 is the root
  std::unordered_map<std::uint64_t, std::uint32_t> children_;  // node << 8 | byte
  std::array<bool, 256> begins_{};                             // bytes with which a token begins
};

}  // namespace tandem
