#include "model/utf8.h"

#include <cstring>

namespace tandem {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the character that a lead byte promises, and the range of its second byte, which
// keeps overlong forms, surrogates and code points above U+10FFFF out (Unicode, table 3-7).
struct Lead {
  std::size_t length;  // 0: no character begins so
  unsigned char low;
  unsigned char high;
};

Lead LeadOf(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

unsigned char At(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

bool EightAscii(const char* text) {
  std::uint64_t word = 0;
  std::memcpy(&word, text, sizeof word);
  return (word & 0x8080808080808080u) == 0;
}

// Appends the lossy form of `bytes` up to its end, or up to a cut character if `keep_cut`.
std::size_t AppendLossy(std::string_view bytes, bool keep_cut, std::string& to) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::size_t valid = ValidUtf8Prefix(bytes.substr(done));
    to.append(bytes, done, valid);
    done += valid;
    if (done == bytes.size()) break;
    const Utf8Step step = StepUtf8(bytes.substr(done));
    if (step.kind == Utf8Step::Kind::kCut && keep_cut) break;
    to += kReplacement;
    done += step.length;
  }
  return done;
}

}  // namespace

Utf8Step StepUtf8(std::string_view text) {
  const Lead lead = LeadOf(At(text, 0));
  if (lead.length == 0) return {Utf8Step::Kind::kInvalid, 1};
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Step::Kind::kCut, i};
    const unsigned char low = i == 1 ? lead.low : 0x80;
    const unsigned char high = i == 1 ? lead.high : 0xBF;
    if (At(text, i) < low || At(text, i) > high) return {Utf8Step::Kind::kInvalid, i};
  }
  return {Utf8Step::Kind::kCharacter, lead.length};
}

std::size_t ValidUtf8Prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    if (at + 8 <= text.size() && EightAscii(text.data() + at)) {
      at += 8;
      continue;
    }
    const Utf8Step step = StepUtf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) break;
    at += step.length;
  }
  return at;
}

void AppendUtf8(char32_t code_point, std::string& to) {
  const auto trail = [&](unsigned shift) {
    to += static_cast<char>(0x80 | ((code_point >> shift) & 0x3F));
  };
  if (code_point < 0x80) {
    to += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    to += static_cast<char>(0xC0 | (code_point >> 6));
    trail(0);
  } else if (code_point < 0x10000) {
    to += static_cast<char>(0xE0 | (code_point >> 12));
    trail(6), trail(0);
  } else {
    to += static_cast<char>(0xF0 | (code_point >> 18));
    trail(12), trail(6), trail(0);
  }
}

char32_t CodePoint(std::string_view character) {
  const unsigned char lead = At(character, 0);
  const std::size_t length = LeadOf(lead).length;
  if (length == 1) return lead;
  char32_t code_point = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    code_point = (code_point << 6) | (At(character, i) & 0x3Fu);
  }
  return code_point;
}

std::string LossyUtf8(std::string_view bytes) {
  std::string text;
  AppendLossy(bytes, false, text);
  return text;
}

std::string TakeCompleteUtf8(std::string& bytes) {
  std::string text;
  bytes.erase(0, AppendLossy(bytes, true, text));
  return text;
}

}  // namespace tandem
