#include "model/synthetic.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

#include "memory/error.h"
#include "model/config_check.h"

namespace tandem {
namespace {

// The published shapes (architectures sections 1.1, 2.1, 3.1), as their config.json gives them. No
// bos and eos: random weights would end an answer at random.
constexpr std::string_view kMoe16b = R"({"model_type": "deepseek",
  "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "vocab_size": 102400,
  "max_position_embeddings": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408,
  "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
  "first_k_dense_replace": 1, "norm_topk_prob": false})";
constexpr std::string_view kV2Lite = R"({"model_type": "deepseek_v2",
  "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16, "vocab_size": 102400,
  "max_position_embeddings": 163840, "intermediate_size": 10944, "moe_intermediate_size": 1408,
  "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
  "first_k_dense_replace": 1, "norm_topk_prob": false, "scoring_func": "softmax",
  "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
    "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}})";
constexpr std::string_view kV2 = R"({"model_type": "deepseek_v2",
  "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128, "vocab_size": 102400,
  "max_position_embeddings": 163840, "intermediate_size": 12288, "moe_intermediate_size": 1536,
  "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6,
  "first_k_dense_replace": 1, "norm_topk_prob": false, "scoring_func": "softmax",
  "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3,
  "routed_scaling_factor": 16.0,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}})";
constexpr std::string_view kV3 = R"({"model_type": "deepseek_v3",
  "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "vocab_size": 129280,
  "max_position_embeddings": 163840, "intermediate_size": 18432, "moe_intermediate_size": 2048,
  "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
  "first_k_dense_replace": 3, "norm_topk_prob": true, "scoring_func": "sigmoid",
  "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}})";

struct Shape {
  std::string_view name;
  std::string_view config;
  DType dtype;  // as published
};
constexpr std::array<Shape, 4> kShapes{{{"deepseek-moe-16b", kMoe16b, DType::kBF16},
                                        {"deepseek-v2-lite", kV2Lite, DType::kBF16},
                                        {"deepseek-v2", kV2, DType::kBF16},
                                        {"deepseek-v3", kV3, DType::kF8E4M3}}};

struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr std::array<TypeName, kNumScalarFormats> kTypeNames{
    {{"f32", DType::kF32}, {"bf16", DType::kBF16}, {"f16", DType::kF16}, {"fp8", DType::kF8E4M3}}};

[[noreturn]] void BadSpec(const std::string& spec, const std::string& what) {
  std::vector<std::string_view> names;
  names.reserve(kShapes.size());
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  Throw<ConfigError>(
      "synthetic model '{}': {}; expected SHAPE[:layers=N][:dtype=f32|bf16|f16|fp8][:experts=N]"
      "[:vocab=N] with SHAPE one of {}",
      spec, what, fmt::join(names, ", "));
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

const Shape& FindShape(const std::string& spec, std::string_view name) {
  for (const Shape& shape : kShapes) {
    if (shape.name == name) return shape;
  }
  BadSpec(spec, fmt::format("unknown shape '{}'", name));
}

std::int64_t Number(const std::string& spec, std::string_view key, std::string_view text,
                    std::int64_t high) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || number < 1 || number > high) {
    BadSpec(spec,
            fmt::format("{}: expected a whole number from 1 to {}, found '{}'", key, high, text));
  }
  return number;
}

DType TypeNamed(const std::string& spec, std::string_view name) {
  for (const TypeName& type : kTypeNames) {
    if (type.name == name) return type.dtype;
  }
  BadSpec(spec, fmt::format("unknown dtype '{}'", name));
}

void Apply(const std::string& spec, std::string_view option, Config* config, DType* dtype) {
  const std::size_t equals = option.find('=');
  const std::string_view key = option.substr(0, equals);
  const std::string_view value =
      equals == std::string_view::npos ? std::string_view() : option.substr(equals + 1);
  if (key == "layers") {
    config->num_hidden_layers = Number(spec, key, value, 1000);
  } else if (key == "experts") {
    config->n_routed_experts = Number(spec, key, value, 1024);
  } else if (key == "vocab") {
    config->vocab_size = Number(spec, key, value, 1 << 23);
  } else if (key == "dtype") {
    *dtype = TypeNamed(spec, value);
  } else {
    BadSpec(spec, fmt::format("unknown option '{}'", option));
  }
}

// A bijection of 64 bits without visible structure (the finisher of splitmix64).
std::uint64_t Mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

std::uint64_t HashName(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return Mix(hash);
}

std::uint64_t RandomBits(std::uint64_t seed, std::uint64_t index) {
  return Mix(seed + index * 0x9E3779B97F4A7C15);
}

// Turns 8 random bytes into elements: sign, mantissa and the low 3 exponent bits stay random, the
// others are set so that |w| is in [2^-12, 2^-4) with an r.m.s. of 0.02. Two operations for 8
// bytes, so that making weights is about as fast as reading them. FP8 codes lose their top exponent
// bit (so they are never NaN) and have an r.m.s. of 0.62, which scales of about 1/32 bring down.
struct Pattern {
  std::uint64_t keep;
  std::uint64_t add;
};
Pattern PatternFor(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {0x83FFFFFF83FFFFFF, (std::uint64_t{115} << 23) * 0x0000000100000001};
    case DType::kBF16:
      return {0x83FF83FF83FF83FF, (std::uint64_t{115} << 7) * 0x0001000100010001};
    case DType::kF16:
      return {0x9FFF9FFF9FFF9FFF, (std::uint64_t{3} << 10) * 0x0001000100010001};
    default:
      TANDEM_CHECK(dtype == DType::kF8E4M3);
      return {0xBFBFBFBFBFBFBFBF, 0};
  }
}

// Calls make(i) for the 8-byte words that cover [offset, offset + dst.size()) and stores their
// bytes; the first and last word may be partial.
template <class Make>
void FillWords(std::uint64_t offset, std::span<std::byte> dst, Make make) {
  std::size_t done = 0;
  while (done < dst.size()) {
    const std::uint64_t at = offset + done;
    const std::size_t skip = at % 8;
    const std::size_t count = std::min<std::size_t>(8 - skip, dst.size() - done);
    const std::uint64_t word = make(at / 8);
    std::memcpy(dst.data() + done, reinterpret_cast<const std::byte*>(&word) + skip, count);
    done += count;
    // The long middle: whole words, in a loop that the compiler can pipeline.
    std::uint64_t index = (offset + done) / 8;
    for (; count + skip == 8 && dst.size() - done >= 8; done += 8, ++index) {
      const std::uint64_t whole = make(index);
      std::memcpy(dst.data() + done, &whole, 8);
    }
  }
}

// One value in [-1, 1) from the bits of an element.
float Uniform(std::uint64_t seed, std::uint64_t element) {
  const auto high = static_cast<std::int32_t>(RandomBits(seed, element) >> 40);  // 24 bits
  return static_cast<float>(high - (1 << 23)) / static_cast<float>(1 << 23);
}

// centre + spread * uniform, for the small vectors: norms, router biases, FP8 scales.
struct Around {
  float centre;
  float spread;
};

template <class T, class Convert>
std::uint64_t PackWord(std::uint64_t seed, std::uint64_t index, Around around, Convert convert) {
  constexpr std::size_t kLanes = 8 / sizeof(T);
  std::array<T, kLanes> lanes{};
  for (std::size_t i = 0; i < kLanes; ++i) {
    lanes[i] = convert(around.centre + around.spread * Uniform(seed, index * kLanes + i));
  }
  std::uint64_t word = 0;
  std::memcpy(&word, lanes.data(), sizeof(word));
  return word;
}

void FillAround(DType dtype, std::uint64_t seed, Around around, std::uint64_t offset,
                std::span<std::byte> dst) {
  FillWords(offset, dst, [&](std::uint64_t i) {
    if (dtype == DType::kBF16) return PackWord<std::uint16_t>(seed, i, around, F32ToBf16);
    if (dtype == DType::kF16) return PackWord<std::uint16_t>(seed, i, around, F32ToF16);
    TANDEM_CHECK(dtype == DType::kF32);
    return PackWord<float>(seed, i, around, [](float value) { return value; });
  });
}

}  // namespace

void SyntheticSource::Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
                           std::span<std::byte> dst) const {
  const std::uint64_t bytes = piece == Piece::kData ? tensor.data.bytes : tensor.scale.bytes;
  TANDEM_CHECK(offset <= bytes && dst.size() <= bytes - offset);
  const std::uint64_t seed = HashName(tensor.name);
  if (piece == Piece::kScale) {
    return FillAround(DType::kF32, ~seed, {1.0f / 32, 1.0f / 128}, offset, dst);
  }
  if (tensor.part == Part::kRouterBias) {
    return FillAround(tensor.dtype, seed, {0, 0.01f}, offset, dst);
  }
  if (tensor.shape.size() == 1) return FillAround(tensor.dtype, seed, {1, 0.05f}, offset, dst);
  const Pattern pattern = PatternFor(tensor.dtype);
  FillWords(offset, dst,
            [&](std::uint64_t i) { return (RandomBits(seed, i) & pattern.keep) + pattern.add; });
}

Model OpenSynthetic(const std::string& spec) {
  const std::vector<std::string_view> parts = Split(spec, ':');
  const Shape& shape = FindShape(spec, parts[0]);
  Model model;
  model.name = spec;
  model.config = ParseConfig(shape.config, std::string(shape.name));
  DType dtype = shape.dtype;
  for (std::size_t i = 1; i < parts.size(); ++i) Apply(spec, parts[i], &model.config, &dtype);
  model.config.fp8 = dtype == DType::kF8E4M3;
  try {
    CheckConfig(model.config, std::string(shape.name));
  } catch (const CheckpointError& error) {
    BadSpec(spec, error.what());
  }
  model.tensors = ExpectedTensors(model.config, dtype);
  model.source = std::make_shared<const SyntheticSource>();
  return model;
}

}  // namespace tandem
