#include "model/problems.h"

#include <algorithm>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::size_t kMostListed = 20;

// "a, b, c and 17 more"
std::string Listed(const std::vector<std::string>& items) {
  const std::size_t shown = std::min(items.size(), kMostListed);
  std::string text = fmt::format("{}", fmt::join(items.begin(), items.begin() + shown, ", "));
  if (items.size() > shown) text += fmt::format(" and {} more", items.size() - shown);
  return text;
}

}  // namespace

void ThrowIfAny(const std::string& where, const std::vector<Problems>& all) {
  std::vector<std::string> parts;
  for (const Problems& p : all) {
    if (p.items.empty()) continue;
    parts.push_back(fmt::format("{} ({}): {}", p.what, p.items.size(), Listed(p.items)));
  }
  if (!parts.empty()) Throw<CheckpointError>("{}: {}", where, fmt::join(parts, "; "));
}

}  // namespace tandem
