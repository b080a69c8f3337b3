#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::cpu {

// Instruction-set levels, each one including those before it; but a CPU of a level above kAvxVnni
// may lack that one (AMD's Zen 4 does).
enum class Isa : std::uint8_t {
  kRef,
  kAvx2,
  kAvxVnni,
  kAvx512,
  kAvx512Vnni,
  kAvx512Bf16,
  kAmx,  // tiles of int8 and bf16; Linux gives them to a process that asks
};

// "ref", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx".
std::string_view Name(Isa isa);

// What this CPU and its kernel support, lowest first; kRef is always there.
std::vector<Isa> SupportedIsas();

// Whether this CPU and its kernel support the level.
bool Supports(Isa isa);

// The best supported level, or the one that TANDEM_FORCE_ISA names.
// Throws ConfigError if that word is unknown or this CPU lacks the level.
Isa ChooseIsa();

}  // namespace tandem::cpu
