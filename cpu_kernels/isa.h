#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::cpu {

// Instruction-set levels, each one including those before it.
enum class Isa : std::uint8_t { kRef, kAvx2, kAvx512, kAvx512Bf16 };

// "ref", "avx2", "avx512", "avx512_bf16".
std::string_view Name(Isa isa);

// What this CPU and its kernel support, lowest first; kRef is always there.
std::vector<Isa> SupportedIsas();

// The best supported level, or the one that TANDEM_FORCE_ISA names.
// Throws ConfigError if that word is unknown or this CPU lacks the level.
Isa ChooseIsa();

}  // namespace tandem::cpu
