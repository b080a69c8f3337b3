#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// What stands at the beginning of some bytes. `length` is that of the character, or of the part
// that one U+FFFD replaces: the longest beginning of a character, at least one byte.
struct Utf8Step {
  enum class Kind : std::uint8_t {
    kCharacter,
    kInvalid,
    kCut,  // the bytes end inside a character that may still come
  };
  Kind kind;
  std::size_t length;
};

// `text` must not be empty. Overlong forms, surrogates and everything above U+10FFFF are invalid.
Utf8Step StepUtf8(std::string_view text);

// The length of the longest beginning that is valid UTF-8.
std::size_t ValidUtf8Prefix(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& to);

// The code point at the beginning of valid UTF-8.
char32_t CodePoint(std::string_view character);

// The text with every invalid part replaced by U+FFFD.
std::string LossyUtf8(std::string_view bytes);

// As LossyUtf8, but a character that is cut off at the end stays in `bytes`; the rest is removed.
std::string TakeCompleteUtf8(std::string& bytes);

}  // namespace tandem
