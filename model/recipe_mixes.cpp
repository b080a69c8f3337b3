#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "memory/error.h"
#include "model/recipe.h"

namespace tandem {
namespace {

// The layers in which a mix gives a tensor more bits.
enum class In : std::uint8_t {
  kNone,
  kAll,
  kEighth,     // the first eighth
  kSixteenth,  // the first sixteenth
  kFirst2,
  kFirst4,
  kMoreBits,  // the first and last eighth, and of those between every third
};

struct More {
  In in = In::kNone;
  DType format = DType::kF32;
};

// A mix as llama.cpp defines it: one format, and where it departs from it. Parts: `down` of any
// MLP, `v` the projection of values (attn_v, and the joint attn_kv_b), `out` attn_output. The first
// entry that has the layer counts.
struct Mix {
  std::string_view name;
  std::uint32_t file_type;  // llama.cpp's number
  DType base;
  DType head;
  std::array<More, 2> down;
  std::array<More, 2> v;
  More out;
};

using enum DType;
constexpr Mix Plain(std::string_view name, std::uint32_t file_type, DType format) {
  return {name, file_type, format, format, {}, {}, {}};
}
constexpr std::array kMixes = {
    Plain("f32", 0, kF32),
    Plain("f16", 1, kF16),
    Plain("bf16", 32, kBF16),
    Plain("q8_0", 7, kQ8_0),
    Plain("q6_k", 18, kQ6_K),
    Mix{"q5_k_m", 17, kQ5_K, kQ6_K, {{{In::kMoreBits, kQ6_K}}}, {{{In::kMoreBits, kQ6_K}}}, {}},
    Mix{"q5_k_s", 16, kQ5_K, kQ6_K, {}, {}, {}},
    Mix{"q4_k_m", 15, kQ4_K, kQ6_K, {{{In::kMoreBits, kQ6_K}}}, {{{In::kMoreBits, kQ6_K}}}, {}},
    Mix{"q4_k_s", 14, kQ4_K, kQ6_K, {{{In::kEighth, kQ5_K}}}, {{{In::kFirst4, kQ5_K}}}, {}},
    Mix{"q4_0", 2, kQ4_0, kQ6_K, {}, {}, {}},
    Mix{"q4_1", 3, kQ4_1, kQ6_K, {}, {}, {}},
    Mix{"q5_0", 8, kQ5_0, kQ6_K, {}, {}, {}},
    Mix{"q5_1", 9, kQ5_1, kQ6_K, {}, {}, {}},
    Mix{"iq4_nl", 25, kIQ4_NL, kQ6_K, {{{In::kEighth, kQ5_K}}}, {{{In::kAll, kQ5_K}}}, {}},
    Mix{"iq4_xs", 30, kIQ4_XS, kQ6_K, {{{In::kEighth, kQ5_K}}}, {{{In::kAll, kQ5_K}}}, {}},
    Mix{"q3_k_m",
        12,
        kQ3_K,
        kQ6_K,
        {{{In::kSixteenth, kQ5_K}, {In::kAll, kQ4_K}}},
        {{{In::kFirst2, kQ5_K}, {In::kAll, kQ4_K}}},
        {In::kAll, kQ4_K}},
    Mix{"q3_k_s", 11, kQ3_K, kQ6_K, {}, {}, {}},
    Mix{"q2_k", 10, kQ2_K, kQ6_K, {{{In::kAll, kQ3_K}}}, {{{In::kAll, kQ4_K}}}, {In::kAll, kQ3_K}},
    // Routed experts only; everything else is Q8_0.
    Plain("mxfp4", 38, kMXFP4),
};

const Mix* FindMix(std::string_view name) {
  const auto* at = std::ranges::find(kMixes, name, &Mix::name);
  return at == kMixes.end() ? nullptr : at;
}

bool Has(In in, std::int64_t layer, std::int64_t layers) {
  const std::int64_t eighth = layers / 8;
  switch (in) {
    case In::kNone:
      return false;
    case In::kAll:
      return true;
    case In::kEighth:
      return layer < eighth;
    case In::kSixteenth:
      return layer < layers / 16;
    case In::kFirst2:
      return layer < 2;
    case In::kFirst4:
      return layer < 4;
    case In::kMoreBits:
      return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
  }
  return false;
}

DType FirstOf(std::span<const More> entries, const TensorInfo& tensor, std::int64_t layers,
              DType otherwise) {
  for (const More& more : entries) {
    if (Has(more.in, tensor.layer, layers)) return more.format;
  }
  return otherwise;
}

}  // namespace

std::vector<std::string_view> MixNames() {
  std::vector<std::string_view> names;
  for (const Mix& mix : kMixes) names.push_back(mix.name);
  return names;
}

void CheckMix(std::string_view mix, const std::string& where) {
  if (FindMix(mix) != nullptr) return;
  Throw<ConfigError>("{}: '{}' is no known mix of formats; expected one of {}", where, mix,
                     fmt::join(MixNames(), ", "));
}

std::optional<std::uint32_t> GgufFileType(std::string_view mix) {
  const Mix* found = FindMix(mix);
  return found == nullptr ? std::nullopt : std::optional(found->file_type);
}

DType MixFormat(std::string_view name, const TensorInfo& tensor, std::int64_t layers) {
  const Mix* mix = FindMix(name);
  TANDEM_CHECK(mix != nullptr);
  if (mix->base == kMXFP4) return tensor.role == Role::kRouted ? kMXFP4 : kQ8_0;
  switch (tensor.part) {
    case Part::kLmHead:
      return mix->head;
    case Part::kDown:
      return FirstOf(mix->down, tensor, layers, mix->base);
    case Part::kV:
    case Part::kKvB:
      return FirstOf(mix->v, tensor, layers, mix->base);
    case Part::kO:
      return FirstOf({&mix->out, 1}, tensor, layers, mix->base);
    default:
      return mix->base;
  }
}

}  // namespace tandem
