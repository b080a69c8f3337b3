#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/bpe.h"
#include "model/pre_tokenizer.h"

namespace tandem {

// Limits of tokenizer.json, far above every published model: a file beyond them is damaged or made
// to harm.
constexpr std::uint64_t kMaxTokenizerBytes = std::uint64_t{256} << 20;
constexpr std::int32_t kMaxTokens = 4'000'000;
constexpr std::size_t kMaxMerges = 4'000'000;
constexpr std::size_t kMaxAddedTokens = 65'536;
constexpr std::size_t kMaxAddedBytes = 1024;  // of one added token's content

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;  // matched after those that are not
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // and behind it
};

// tokenizer.json, read and checked.
struct TokenizerSpec {
  std::unordered_map<std::string, std::int32_t> vocab;  // content (in the byte alphabet) to id
  std::vector<AddedToken> added;
  std::array<std::int32_t, 256> byte_ids;
  Bpe bpe{{}};
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges give
};

// Throws CheckpointError naming `file` and the entry.
TokenizerSpec ParseTokenizer(std::string_view json, const std::string& file);

}  // namespace tandem
