#pragma once

#include <span>
#include <string>
#include <string_view>

namespace tandem {

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
int EditDistance(std::string_view a, std::string_view b);

// The known word that `word` was most likely meant to be: the first of those with the smallest edit
// distance, or empty if none is close (more than a third of the letters differ).
std::string NearestKey(std::string_view word, std::span<const std::string_view> known);

}  // namespace tandem
