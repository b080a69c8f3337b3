#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// Reading the small text files of /proc and /sys, which may be absent at any time.

// The whole text; nothing if the file cannot be read.
std::optional<std::string> ReadSystemFile(const std::filesystem::path& path);

// The same without white space around it.
std::optional<std::string> ReadSystemWord(const std::filesystem::path& path);

// A whole number that stands alone in a file.
std::optional<std::int64_t> ReadSystemNumber(const std::filesystem::path& path);

// The number after `key` and blanks or a colon at the start of a word: "MemFree:   123 kB".
std::optional<std::uint64_t> NumberAfter(std::string_view text, std::string_view key);

}  // namespace tandem
