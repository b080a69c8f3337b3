#include "model/tokenizer_bytes.h"

#include <fmt/format.h>

#include <array>

#include "model/utf8.h"

namespace tandem {
namespace {

constexpr std::size_t kFirstShifted = 0x100;
constexpr std::size_t kAlphabetEnd = kFirstShifted + 68;  // 188 bytes are printable, 68 are not
constexpr std::size_t kQuotedBytes = 48;

bool Printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::string, 256> character;
  std::array<int, kAlphabetEnd> byte;  // of a code point, -1 if it is not in the alphabet

  Alphabet() {
    byte.fill(-1);
    char32_t shifted = kFirstShifted;
    for (unsigned b = 0; b < 256; ++b) {
      const char32_t code_point = Printable(b) ? char32_t{b} : shifted++;
      AppendUtf8(code_point, character[b]);
      byte[code_point] = static_cast<int>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string_view ByteCharacter(unsigned char byte) { return TheAlphabet().character[byte]; }

std::string BytesOfContent(std::string_view content) {
  std::string bytes;
  for (std::string_view rest = content; !rest.empty();) {
    const char32_t code_point = CodePoint(rest);
    const int byte = code_point < kAlphabetEnd ? TheAlphabet().byte[code_point] : -1;
    if (byte < 0) return std::string(content);
    bytes += static_cast<char>(byte);
    rest.remove_prefix(StepUtf8(rest).length);
  }
  return bytes;
}

std::string ContentOfBytes(std::string_view bytes) {
  std::string content;
  for (const char byte : bytes) content += ByteCharacter(static_cast<unsigned char>(byte));
  return content;
}

std::string QuotedToken(std::string_view content) {
  const bool cut = content.size() > kQuotedBytes;
  std::string text = "'";
  for (std::string_view rest = content; !rest.empty() && text.size() <= kQuotedBytes;) {
    const std::size_t length = StepUtf8(rest).length;
    if (static_cast<unsigned char>(rest[0]) < 0x20 || rest[0] == 0x7F) {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(rest[0]));
    } else {
      text += rest.substr(0, length);
    }
    rest.remove_prefix(length);
  }
  return text + (cut ? "...'" : "'");
}

}  // namespace tandem
