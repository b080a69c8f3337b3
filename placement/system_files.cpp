#include "placement/system_files.h"

#include <charconv>
#include <fstream>
#include <sstream>

namespace tandem {

std::optional<std::string> ReadSystemFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<std::string> ReadSystemWord(const std::filesystem::path& path) {
  std::optional<std::string> text = ReadSystemFile(path);
  if (!text) return std::nullopt;
  constexpr std::string_view kBlank = " \t\r\n";
  text->erase(text->find_last_not_of(kBlank) + 1);
  text->erase(0, text->find_first_not_of(kBlank));
  return text;
}

std::optional<std::int64_t> ReadSystemNumber(const std::filesystem::path& path) {
  const std::optional<std::string> word = ReadSystemWord(path);
  std::int64_t value = 0;
  if (!word || word->empty()) return std::nullopt;
  const auto parsed = std::from_chars(word->data(), word->data() + word->size(), value);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == word->data() + word->size();
  return whole ? std::optional(value) : std::nullopt;
}

std::optional<std::uint64_t> NumberAfter(std::string_view text, std::string_view key) {
  for (std::size_t at = text.find(key); at != text.npos; at = text.find(key, at + 1)) {
    if (at > 0 && text[at - 1] != '\n' && text[at - 1] != ' ') continue;
    std::string_view rest = text.substr(at + key.size());
    const std::size_t digit = rest.find_first_not_of(": \t");
    if (digit == 0 || digit == rest.npos) continue;
    rest.remove_prefix(digit);
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (parsed.ec == std::errc()) return value;
  }
  return std::nullopt;
}

}  // namespace tandem
