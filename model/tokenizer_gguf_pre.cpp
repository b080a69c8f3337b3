#include <fmt/ranges.h>

#include <array>

#include "memory/error.h"
#include "model/pre_tokenizer_pattern.h"
#include "model/pre_tokenizer_unicode.h"
#include "model/tokenizer_bytes.h"
#include "model/tokenizer_gguf.h"
#include "model/utf8.h"

namespace tandem {
namespace {

struct CodePoints {
  char32_t first;
  char32_t last;
};

// Letters that have a case, as the tokenizers of the deepseek-llm kind spell them out: not those of
// any one version of Unicode, and without some small letters (Armenian, Georgian).
// clang-format off
constexpr CodePoints kCasedLetters[] = {
    {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA},
    {0x1BC, 0x1BF}, {0x1C4, 0x293}, {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x376}, {0x377,
    0x377}, {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A}, {0x38C, 0x38C},
    {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556}, {0x10A0,
    0x10C5}, {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF}, {0x1D00,
    0x1D2B}, {0x1D6B, 0x1D77}, {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D}, {0x1F20,
    0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57}, {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B}, {0x1F5D,
    0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC}, {0x1FBE, 0x1FBE}, {0x1FC2,
    0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC}, {0x1FF2,
    0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115,
    0x2115}, {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212A,
    0x212D}, {0x212F, 0x2134}, {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149}, {0x214E,
    0x214E}, {0x2183, 0x2183}, {0x2184, 0x2184}, {0x2C00, 0x2C7B}, {0x2C7E, 0x2CE4}, {0x2CEB,
    0x2CEE}, {0x2CF2, 0x2CF2}, {0x2CF3, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722,
    0xA76F}, {0xA771, 0xA787}, {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13,
    0xFB17}, {0xFF21, 0xFF3A}, {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3},
    {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900,
    0x1E943}};
// clang-format on

std::string CasedLetterClass() {
  std::string inside;
  for (const CodePoints& range : kCasedLetters) {
    AppendUtf8(range.first, inside);
    if (range.first == range.last) continue;
    inside += '-';
    AppendUtf8(range.last, inside);
  }
  return inside;
}

constexpr const char* kCjk = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

std::vector<std::string> LlmPatterns() {
  return {R"([\r\n])",
          fmt::format(R"(\s?[{}]+)", CasedLetterClass()),
          "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
          R"(\s+$)",
          kCjk,
          fmt::format("[{}]", NumericClass())};
}

std::vector<std::string> CoderPatterns() {
  return {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk, fmt::format("[{}]", NumericClass())};
}

std::vector<std::string> V3Patterns() {
  return {R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
          R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
          R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
}

struct PreRow {
  std::string_view name;
  std::vector<std::string> (*patterns)();
};
// joyai-llm is llama.cpp's name for V4's, which splits as V3's does.
constexpr std::array<PreRow, 4> kPreTokenizers{{{"deepseek-llm", LlmPatterns},
                                                {"deepseek-coder", CoderPatterns},
                                                {"deepseek-v3", V3Patterns},
                                                {"joyai-llm", V3Patterns}}};

const PreRow* FindRow(std::string_view name) {
  for (const PreRow& row : kPreTokenizers) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

}  // namespace

bool IsKnownPreTokenizer(std::string_view name) { return FindRow(name) != nullptr; }

PreTokenizer NamedPreTokenizer(std::string_view name, const std::string& where) {
  const PreRow* row = FindRow(name);
  if (row == nullptr) {
    std::vector<std::string_view> known;
    for (const PreRow& one : kPreTokenizers) known.push_back(one.name);
    Throw<CheckpointError>(
        "{}: the pre-tokenizer {} is not known (known: {}), so text cannot be "
        "encoded; commands that take token ids work",
        where, QuotedToken(name), fmt::join(known, ", "));
  }
  PreTokenizer pre_tokenizer;
  for (const std::string& pattern : row->patterns()) {
    // Patterns are kept as tokenizer.json has them.
    pre_tokenizer.Add({Regex(PatternForPcre(pattern, where), where)});
  }
  return pre_tokenizer;
}

}  // namespace tandem
