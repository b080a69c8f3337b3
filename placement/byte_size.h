#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem {

// "6 GiB", "512MiB", "1.5 GiB", "4096" (bytes): nullopt for anything else, for a fraction of a byte
// and for what 64 bits do not hold. Units are B, KiB, MiB, GiB and TiB; "GB" is refused, since it
// means 7 % less to some readers than to others.
std::optional<std::uint64_t> ParseBytes(std::string_view text);

// "21.37 GiB", "512.00 MiB", "300 B".
std::string FormatBytes(std::uint64_t bytes);

}  // namespace tandem
