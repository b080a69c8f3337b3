#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// FNV-1a over 64 bits: stable between programs and machines, which std::hash is not. Enough for
// fingerprints and damage; not against an attacker.
inline std::uint64_t Fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

// 16 hexadecimal digits.
inline std::string HashText(std::string_view bytes) { return fmt::format("{:016x}", Fnv1a(bytes)); }

}  // namespace tandem
