#include "cpu_kernels/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <iterator>

#include "memory/error.h"

namespace tandem::cpu {
namespace {

constexpr std::string_view kNames[] = {"ref",         "avx2",        "avx_vnni", "avx512",
                                       "avx512_vnni", "avx512_bf16", "amx"};

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros for a leaf that this CPU does not have.
Registers Cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

constexpr bool Has(unsigned value, unsigned bits) { return (value & bits) == bits; }

// The register states that the operating system (or the hypervisor below it) saves and restores.
// A CPU may offer AVX-512 while its kernel does not, so the CPUID bits alone are not enough.
unsigned SavedStates() {
  if (!Has(Cpuid(1, 0).ecx, bit_OSXSAVE)) return 0;
  unsigned low = 0;
  unsigned high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool HasAvx2() {
  constexpr unsigned kSseAndYmm = 0x6;
  return Has(SavedStates(), kSseAndYmm) && Has(Cpuid(1, 0).ecx, bit_AVX | bit_FMA | bit_F16C) &&
         Has(Cpuid(7, 0).ebx, bit_AVX2);
}

bool HasAvx512() {
  constexpr unsigned kMaskAndZmm = 0xE6;
  return HasAvx2() && Has(SavedStates(), kMaskAndZmm) &&
         Has(Cpuid(7, 0).ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ);
}

bool HasAvxVnni() {
  constexpr unsigned kAvxVnni = 1U << 4;  // leaf 7.1, eax
  return HasAvx2() && Cpuid(7, 0).eax >= 1 && Has(Cpuid(7, 1).eax, kAvxVnni);
}

bool HasAvx512Vnni() { return HasAvx512() && Has(Cpuid(7, 0).ecx, bit_AVX512VNNI); }

bool HasAvx512Bf16() {
  return HasAvx512Vnni() && Cpuid(7, 0).eax >= 1 && Has(Cpuid(7, 1).eax, bit_AVX512BF16);
}

// Linux (5.16 on) saves the tiles' 8 KiB only for a process that has asked for them.
bool MayUseTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

bool HasAmx() {
  constexpr unsigned kTileStates = 0x60000;
  constexpr unsigned kTileInt8Bf16 = 1U << 24 | 1U << 25 | 1U << 22;  // leaf 7.0, edx
  // Every CPU with AMX so far has VBMI, by which weights are decoded.
  return HasAvx512Bf16() && Has(Cpuid(7, 0).ecx, bit_AVX512VBMI) &&
         Has(SavedStates(), kTileStates) && Has(Cpuid(7, 0).edx, kTileInt8Bf16) && MayUseTiles();
}

Isa Best() {
  for (const Isa isa :
       {Isa::kAmx, Isa::kAvx512Bf16, Isa::kAvx512Vnni, Isa::kAvx512, Isa::kAvxVnni, Isa::kAvx2}) {
    if (Supports(isa)) return isa;
  }
  return Isa::kRef;
}

Isa ParseForced(std::string_view word) {
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == word) return static_cast<Isa>(i);
  }
  Throw<ConfigError>(
      "TANDEM_FORCE_ISA={}: unknown level, expected ref, avx2, avx_vnni, avx512, avx512_vnni, "
      "avx512_bf16 or amx (best here: {})",
      word, Name(Best()));
}

}  // namespace

std::string_view Name(Isa isa) { return kNames[static_cast<std::size_t>(isa)]; }

bool Supports(Isa isa) {
  switch (isa) {
    case Isa::kRef:
      return true;
    case Isa::kAvx2:
      return HasAvx2();
    case Isa::kAvxVnni:
      return HasAvxVnni();
    case Isa::kAvx512:
      return HasAvx512();
    case Isa::kAvx512Vnni:
      return HasAvx512Vnni();
    case Isa::kAvx512Bf16:
      return HasAvx512Bf16();
    case Isa::kAmx:
      return HasAmx();
  }
  return false;
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    if (Supports(static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  }
  return isas;
}

Isa ChooseIsa() {
  const char* forced = std::getenv("TANDEM_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return Best();
  const Isa isa = ParseForced(forced);
  if (!Supports(isa)) {
    Throw<ConfigError>("TANDEM_FORCE_ISA={}: not supported by this CPU (best: {})", forced,
                       Name(Best()));
  }
  return isa;
}

}  // namespace tandem::cpu
