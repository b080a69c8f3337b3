#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

struct TokenizerSpec;

// Byte-level BPE as tokenizer.json describes it: any sequence of Split (regex, Isolated), Digits
// and ByteLevel pre-tokenizers, merges, added tokens. Gives exactly the ids of the Hugging Face
// library.
class Tokenizer {
 public:
  // Parses tokenizer.json's text; `file` is for messages. Throws CheckpointError.
  Tokenizer(std::string_view json, const std::string& file);
  // Of parts that were read elsewhere. Throws CheckpointError if they contradict each other.
  Tokenizer(TokenizerSpec spec, const std::string& file);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  enum class Special : std::uint8_t {
    kText,   // control tokens in the text are ordinary characters (user content)
    kParse,  // added tokens in the text become their ids (templates)
  };
  // Any bytes are accepted; bytes that are no UTF-8 go through byte fallback and decode back
  // exactly. Linear in the text's length. No BOS is added. Thread-safe.
  std::vector<std::int32_t> Encode(std::string_view text, Special special = Special::kParse) const;

  // The exact bytes of these ids. Special tokens are skipped unless asked for.
  std::string Decode(std::span<const std::int32_t> ids, bool with_special = false) const;
  // The bytes of one id; special tokens give their content.
  std::string_view Bytes(std::int32_t id) const;
  bool IsSpecial(std::int32_t id) const;

  // The id of an added or ordinary token by its exact content.
  std::optional<std::int32_t> Find(std::string_view content) const;
  std::int64_t vocab_size() const;  // largest id + 1

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

// Reads the tokenizer of a model, from tokenizer.json of a folder or from the metadata of a GGUF
// file, and checks it against the model's vocab_size: ids beyond the embedding are refused.
Tokenizer ReadTokenizer(const std::string& model_path, std::int64_t vocab_size);

// Whether there is a tokenizer: a folder may lack the file, and a GGUF file may have one of a kind
// that is not known here.
bool HasTokenizer(const std::string& model_path);

// Turns ids into text piece by piece: never half a UTF-8 character, and the pieces join to the
// whole.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  // Text that is complete now; what may still grow into a character is held back.
  std::string Push(std::int32_t id);
  // The rest at the end: incomplete bytes become U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;  // non-owning
  std::string pending_;
};

}  // namespace tandem
