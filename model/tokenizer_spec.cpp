#include "model/tokenizer_spec.h"

#include "memory/error.h"
#include "model/tokenizer_bytes.h"

namespace tandem {
namespace {

// DeepSeek's vocabularies have no token for the 13 bytes that no UTF-8 text contains.
bool OccursInUtf8(unsigned byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

std::int32_t IdOf(const TokenizerSpec& spec, const std::string& content, std::string_view what,
                  const std::string& where) {
  const auto at = spec.vocab.find(content);
  if (at != spec.vocab.end()) return at->second;
  Throw<CheckpointError>("{}: {} {} is not in the vocabulary", where, what, QuotedToken(content));
}

}  // namespace

void FindByteTokens(const std::string& where, TokenizerSpec& spec) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string character(ByteCharacter(static_cast<unsigned char>(byte)));
    const auto at = spec.vocab.find(character);
    spec.byte_ids[byte] = at == spec.vocab.end() ? Bpe::kNone : at->second;
    if (at == spec.vocab.end() && OccursInUtf8(byte)) {
      Throw<CheckpointError>(
          "{}: no token '{}' for byte 0x{:02x}; only byte-level BPE is supported", where, character,
          byte);
    }
  }
}

std::pair<std::string_view, std::string_view> SplitMerge(std::string_view both,
                                                         const std::string& where) {
  const std::size_t space = both.find(' ');
  if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
    Throw<CheckpointError>("{}: expected two tokens with a space between, found {}", where,
                           QuotedToken(both));
  }
  return {both.substr(0, space), both.substr(space + 1)};
}

void AddMerge(std::string_view left, std::string_view right, const std::string& where,
              TokenizerSpec& spec) {
  const std::int32_t left_id = IdOf(spec, std::string(left), "token", where);
  const std::int32_t right_id = IdOf(spec, std::string(right), "token", where);
  const std::string joined = std::string(left).append(right);
  if (spec.bpe.AddRule(left_id, right_id, IdOf(spec, joined, "the joined token", where))) return;
  Throw<CheckpointError>("{}: {} and {} are merged twice", where, QuotedToken(left),
                         QuotedToken(right));
}

}  // namespace tandem
