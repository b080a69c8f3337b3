#pragma once

#include <string>
#include <string_view>

namespace tandem {

// The inside of a PCRE2 character class for \p{category}: one of the general categories L, M, N, P,
// S, Z or their two-letter parts, as of Unicode 16, on which the regular expressions of the Hugging
// Face library stand. Empty if `category` is none of these.
std::string UnicodeClass(std::string_view category);

// White_Space of Unicode, for \s, and all the rest, for \S. PCRE2's own \s also has U+180E.
std::string_view WhiteSpaceClass();
std::string_view NoWhiteSpaceClass();

// What Rust's char::is_numeric accepts (Unicode 17), for the Digits pre-tokenizer.
std::string NumericClass();

bool IsWhiteSpace(char32_t code_point);

}  // namespace tandem
