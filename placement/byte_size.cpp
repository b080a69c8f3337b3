#include "placement/byte_size.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace tandem {
namespace {

struct Unit {
  std::string_view name;
  int shift;
};
constexpr std::array<Unit, 5> kUnits{
    {{"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}}};

std::optional<int> ShiftOf(std::string_view name) {
  if (name.empty()) return 0;
  for (const Unit& unit : kUnits) {
    if (unit.name == name) return unit.shift;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::uint64_t> ParseBytes(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || !(value >= 0)) return std::nullopt;
  std::string_view name(rest, static_cast<std::size_t>(end - rest));
  if (name.starts_with(' ')) name.remove_prefix(1);
  const std::optional<int> shift = ShiftOf(name);
  if (!shift) return std::nullopt;
  // Exact in a double up to 2^53 bytes (8 PiB), far beyond any machine.
  const double bytes = std::ldexp(value, *shift);
  if (bytes > 0x1p53 || bytes != std::floor(bytes)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

std::string FormatBytes(std::uint64_t bytes) {
  for (std::size_t i = kUnits.size() - 1; i > 0; --i) {
    if (bytes >> kUnits[i].shift == 0) continue;
    return fmt::format("{:.2f} {}", std::ldexp(static_cast<double>(bytes), -kUnits[i].shift),
                       kUnits[i].name);
  }
  return fmt::format("{} B", bytes);
}

}  // namespace tandem
