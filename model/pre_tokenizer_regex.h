#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// What matching needs beside the pattern; one per thread, for one Encode. It also carries the time
// limit: a pattern that backtracks without end must end with an error.
class RegexScratch {
 public:
  explicit RegexScratch(std::size_t text_bytes);
  ~RegexScratch();
  RegexScratch(RegexScratch&&) = delete;

 private:
  friend class Regex;
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// A regular expression of tokenizer.json, compiled by PCRE2. Immutable, for all threads.
class Regex {
 public:
  // `pattern` is PCRE2's (see pre_tokenizer_pattern.h). Throws CheckpointError; `where` names the
  // file and the entry.
  Regex(const std::string& pattern, const std::string& where);
  ~Regex();
  Regex(Regex&& other) noexcept;
  Regex& operator=(Regex&&) = delete;

  struct Match {
    std::size_t begin;
    std::size_t end;
  };
  // The first match that begins at `from` or later. `text` must be valid UTF-8.
  std::optional<Match> Find(std::string_view text, std::size_t from, RegexScratch& scratch) const;

 private:
  int MatchWindow(std::string_view text, std::size_t from, std::uint32_t options,
                  RegexScratch& scratch) const;
  void CheckTime(std::string_view text, RegexScratch& scratch) const;

  void* code_;  // pcre2_code, owned
  std::string where_;
};

}  // namespace tandem
