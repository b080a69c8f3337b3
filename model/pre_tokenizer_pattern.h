#pragma once

#include <string>
#include <string_view>

namespace tandem {

// tokenizer.json writes regular expressions for Oniguruma. This gives the same expression for PCRE2
// (with UTF, MULTILINE and LF as the only newline). They differ in what \s, \v, \p{..} stand for
// and in their Unicode version; everything on which the two differ and that no DeepSeek tokenizer
// uses
// (\w, \b, \h, nested classes, {n}+, ...) is refused. Throws CheckpointError; `where` names the
// file and the entry.
std::string PatternForPcre(std::string_view pattern, const std::string& where);

// A pattern that matches exactly this text.
std::string LiteralPattern(std::string_view text);

}  // namespace tandem
