#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/bpe.h"
#include "model/pre_tokenizer.h"

namespace tandem {

// Limits of what files may hold, far above every published model: a file beyond them is damaged or
// made to harm.
inline constexpr std::uint64_t kMaxTokenizerBytes = std::uint64_t{256} << 20;
inline constexpr std::int32_t kMaxTokens = 4'000'000;
inline constexpr std::size_t kMaxMerges = 4'000'000;
inline constexpr std::size_t kMaxAddedTokens = 65'536;
inline constexpr std::size_t kMaxAddedBytes = 1024;  // of one added token's content

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;  // matched after those that are not
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // and behind it
};

// What a tokenizer is made of, whatever file it comes from.
struct TokenizerSpec {
  std::unordered_map<std::string, std::int32_t> vocab;  // content (in the byte alphabet) to id
  std::vector<AddedToken> added;
  std::array<std::int32_t, 256> byte_ids;
  Bpe bpe{{}};
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges give
};

// Fills byte_ids from the vocabulary. Throws CheckpointError if a byte that occurs in UTF-8 has no
// token; `where` names the vocabulary.
void FindByteTokens(const std::string& where, TokenizerSpec& spec);

// The next merge rule: two tokens that become the one that they spell, all three of the vocabulary.
// Throws CheckpointError; `where` names the entry.
void AddMerge(std::string_view left, std::string_view right, const std::string& where,
              TokenizerSpec& spec);
// The two tokens of "left right".
std::pair<std::string_view, std::string_view> SplitMerge(std::string_view both,
                                                         const std::string& where);

}  // namespace tandem
