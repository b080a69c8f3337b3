#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "memory/dtype.h"
#include "memory/error.h"
#include "memory/file.h"
#include "model/config_check.h"
#include "model/config_range.h"
#include "model/json.h"

namespace tandem {
namespace {

using namespace config_range;

constexpr std::uint64_t kMaxConfigBytes = 16 << 20;

// What a family takes for granted where its config.json is silent.
struct FamilyRow {
  std::string_view model_type;
  Family family;
  bool use_mla;
  std::string_view scoring_func;
  std::string_view topk_method;
};
constexpr std::array<FamilyRow, 3> kFamilies{{
    {"deepseek", Family::kDeepSeekMoe, false, "softmax", "greedy"},
    {"deepseek_v2", Family::kDeepSeekV2, true, "softmax", "greedy"},
    {"deepseek_v3", Family::kDeepSeekV3, true, "sigmoid", "noaux_tc"},
}};
constexpr std::string_view kSupported = "supported: deepseek, deepseek_v2, deepseek_v3";

const FamilyRow& FindFamily(const JsonFields& fields) {
  const std::string type = fields.String("model_type", "");
  for (const FamilyRow& row : kFamilies) {
    if (row.model_type == type) return row;
  }
  if (type.empty()) {
    Throw<CheckpointError>("{}: missing; it names the architecture ({})",
                           fields.Where("model_type"), kSupported);
  }
  Throw<CheckpointError>("{}: '{}' is not supported ({})", fields.Where("model_type"), type,
                         kSupported);
}

std::string OneOf(const JsonFields& fields, std::string_view key,
                  std::initializer_list<std::string_view> known, std::string_view absent) {
  std::string value = fields.String(key, absent);
  if (std::find(known.begin(), known.end(), value) != known.end()) return value;
  Throw<CheckpointError>("{}: '{}' is not supported (supported: {})", fields.Where(key), value,
                         fmt::join(known, ", "));
}

void RefuseTrue(const JsonFields& fields, std::string_view key) {
  if (fields.Bool(key, false)) {
    Throw<CheckpointError>("{}: true is not supported: DeepSeek models have no biases",
                           fields.Where(key));
  }
}

void ParseSizes(const JsonFields& f, Config* c) {
  c->hidden_size = f.Int("hidden_size", kWidth);
  c->num_hidden_layers = f.Int("num_hidden_layers", kLayers);
  c->num_attention_heads = f.Int("num_attention_heads", kHeads);
  c->vocab_size = f.Int("vocab_size", kVocab);
  c->max_position_embeddings = f.Int("max_position_embeddings", kPositions);
  c->intermediate_size = f.Int("intermediate_size", kWidth);
  c->rms_norm_eps = f.Real("rms_norm_eps", kEps, 1e-6);
  c->tie_word_embeddings = f.Bool("tie_word_embeddings", false);
  c->num_nextn_predict_layers = f.Int("num_nextn_predict_layers", kMtpLayers, 0);
  OneOf(f, "hidden_act", {"silu"}, "silu");
  RefuseTrue(f, "attention_bias");
  RefuseTrue(f, "mlp_bias");
}

void ParseMla(const JsonFields& f, Config* c) {
  c->num_key_value_heads = c->num_attention_heads;  // of no meaning in MLA
  c->q_lora_rank = f.Int("q_lora_rank", kRank, 0);
  c->kv_lora_rank = f.Int("kv_lora_rank", kRank);
  c->qk_nope_head_dim = f.Int("qk_nope_head_dim", kHeadDim);
  c->qk_rope_head_dim = f.Int("qk_rope_head_dim", kHeadDim);
  c->v_head_dim = f.Int("v_head_dim", kHeadDim);
}

void ParseMha(const JsonFields& f, Config* c) {
  c->num_key_value_heads = f.Int("num_key_value_heads", kHeads, c->num_attention_heads);
  if (!f.Find("head_dim") && c->hidden_size % c->num_attention_heads != 0) {
    Throw<CheckpointError>("{}: expected a multiple of num_attention_heads ({}), found {}",
                           f.Where("hidden_size"), c->num_attention_heads, c->hidden_size);
  }
  const std::int64_t share = c->hidden_size / c->num_attention_heads;
  c->qk_rope_head_dim = f.Int("head_dim", kHeadDim, share);
  c->v_head_dim = c->qk_rope_head_dim;
}

RopeScaling ParseYarn(const JsonFields& f) {
  RopeScaling yarn;
  yarn.factor = f.Real("factor", kFactor);
  yarn.beta_fast = f.Real("beta_fast", kBeta, yarn.beta_fast);
  yarn.beta_slow = f.Real("beta_slow", kBeta, yarn.beta_slow);
  yarn.mscale = f.Real("mscale", kMscale, yarn.mscale);
  yarn.mscale_all_dim = f.Real("mscale_all_dim", kMscale, yarn.mscale_all_dim);
  yarn.original_max_position_embeddings = f.Int("original_max_position_embeddings", kPositions);
  return yarn;
}

// Keys of newer files that would change the formula; none of the DeepSeek models sets them so.
void RefuseYarnVariants(const JsonFields& f, const Config& c) {
  if (!f.Bool("truncate", true)) {
    Throw<CheckpointError>("{}: false is not supported", f.Where("truncate"));
  }
  const double factor = c.rope_attention_factor();
  if (std::abs(f.Real("attention_factor", kMscale, factor) - factor) > 1e-6 * factor) {
    Throw<CheckpointError>("{}: expected {} as mscale and mscale_all_dim give it, found {}",
                           f.Where("attention_factor"), factor, Shown(*f.Find("attention_factor")));
  }
}

void ParseRope(const JsonFields& f, Config* c) {
  c->rope_theta = f.Real("rope_theta", kTheta, c->rope_theta);
  // rope_parameters is the newer name of rope_scaling, and holds rope_theta as well.
  std::optional<JsonFields> rope = f.Object("rope_parameters");
  if (!rope) rope = f.Object("rope_scaling");
  if (!rope) return;
  c->rope_theta = rope->Real("rope_theta", kTheta, c->rope_theta);
  const std::string_view key = rope->Find("rope_type") ? "rope_type" : "type";
  if (OneOf(*rope, key, {"default", "yarn"}, "default") == "default") return;
  if (c->attention == AttentionKind::kMha) {
    Throw<CheckpointError>("{}: 'yarn' is not supported with multi-head attention (MLA only)",
                           rope->Where(key));
  }
  c->rope_scaling = ParseYarn(*rope);
  RefuseYarnVariants(*rope, *c);
}

void ParseRouter(const JsonFields& f, const FamilyRow& family, Config* c) {
  const bool v3 = family.family == Family::kDeepSeekV3;
  c->n_group = f.Int("n_group", kGroups, 1);
  c->topk_group = f.Int("topk_group", kGroups, 1);
  c->scoring_func = OneOf(f, "scoring_func", {"softmax", "sigmoid"}, family.scoring_func);
  c->topk_method =
      OneOf(f, "topk_method", {"greedy", "group_limited_greedy", "noaux_tc"}, family.topk_method);
  if (v3 && !f.Find("norm_topk_prob")) f.Missing("norm_topk_prob");
  c->norm_topk_prob = f.Bool("norm_topk_prob", false);
  // The first family has no such factor: its reference does not read the key.
  if (family.family == Family::kDeepSeekMoe) return;
  const std::optional<double> absent = v3 ? std::nullopt : std::optional<double>(1.0);
  c->routed_scaling_factor = f.Real("routed_scaling_factor", kRoutedScaling, absent);
}

void ParseMoe(const JsonFields& f, const FamilyRow& family, Config* c) {
  c->n_routed_experts = f.Int("n_routed_experts", kExperts, 0);
  if (c->n_routed_experts == 0) return;
  c->n_shared_experts = f.Int("n_shared_experts", kSharedExperts, 0);
  c->num_experts_per_tok = f.Int("num_experts_per_tok", {1, kExperts.high});
  c->moe_intermediate_size = f.Int("moe_intermediate_size", kWidth);
  const bool v3 = family.family == Family::kDeepSeekV3;
  const std::optional<std::int64_t> absent = v3 ? std::nullopt : std::optional<std::int64_t>(0);
  c->first_k_dense_replace = f.Int("first_k_dense_replace", {0, kLayers.high}, absent);
  c->moe_layer_freq = f.Int("moe_layer_freq", kLayers, 1);
  ParseRouter(f, family, c);
}

bool IsBlock128(const JsonFields& f) {
  const auto value = f.Find("weight_block_size");
  simdjson::dom::array sizes;
  if (!value || value->get(sizes) != simdjson::SUCCESS || sizes.size() != 2) return false;
  return std::all_of(sizes.begin(), sizes.end(), [](simdjson::dom::element size) {
    return WholeNumber(size) == std::int64_t{kFp8Block};
  });
}

bool ParseFp8(const JsonFields& fields) {
  const std::optional<JsonFields> f = fields.Object("quantization_config");
  if (!f) return false;
  if (!f->Find("quant_method")) f->Missing("quant_method");
  OneOf(*f, "quant_method", {"fp8"}, "");
  OneOf(*f, "fmt", {"e4m3"}, "e4m3");
  if (!IsBlock128(*f)) {
    const auto found = f->Find("weight_block_size");
    Throw<CheckpointError>("{}: expected [128, 128], found {}", f->Where("weight_block_size"),
                           found ? simdjson::minify(*found).substr(0, 60) : "nothing");
  }
  return true;
}

std::int32_t ParseTokenId(const JsonFields& f, std::string_view key, simdjson::dom::element value) {
  const auto id = WholeNumber(value);
  if (!id || *id < kTokenId.low || *id > kTokenId.high) {
    Throw<CheckpointError>("{}: expected a token id or a list of them, found {}", f.Where(key),
                           Shown(value));
  }
  return static_cast<std::int32_t>(*id);
}

void AddEosIds(const JsonFields& f, std::vector<std::int32_t>* ids) {
  const auto value = f.Find("eos_token_id");
  if (!value) return;
  const auto add = [&](simdjson::dom::element one) {
    const std::int32_t id = ParseTokenId(f, "eos_token_id", one);
    if (std::find(ids->begin(), ids->end(), id) == ids->end()) ids->push_back(id);
  };
  simdjson::dom::array list;
  if (value->get(list) != simdjson::SUCCESS) return add(*value);
  for (const simdjson::dom::element one : list) add(one);
}

// generation_config.json adds the ids that end an answer; it is optional.
void AddGenerationConfig(const std::filesystem::path& model_dir, Config* config) {
  constexpr const char* kName = "generation_config.json";
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::symlink_status(model_dir / kName, error))) return;
  const File file = File::OpenInFolder(model_dir, kName);
  const JsonDocument document(ReadWholeFile(file, kMaxConfigBytes), file.path());
  AddEosIds(JsonFields(document.Object(), file.path()), &config->eos_token_ids);
  CheckConfig(*config, file.path());
}

void CheckModelFolder(const std::filesystem::path& dir) {
  std::error_code error;
  const auto status = std::filesystem::status(dir, error);
  if (!std::filesystem::exists(status)) {
    throw SystemError(fmt::format("{}: no such model folder or GGUF file", dir.string()),
                      ExitCode::kMissingFile);
  }
  if (!std::filesystem::is_directory(status)) {
    throw SystemError(fmt::format("{}: expected a model folder, found something else (give the "
                                  "folder that holds config.json)",
                                  dir.string()),
                      ExitCode::kIo);
  }
  if (!std::filesystem::exists(std::filesystem::symlink_status(dir / "config.json", error))) {
    throw SystemError(fmt::format("{}: has no config.json; expected a model in the Hugging Face "
                                  "layout ({})",
                                  dir.string(), kSupported),
                      ExitCode::kMissingFile);
  }
}

}  // namespace

Config ParseConfig(std::string_view json, const std::string& file) {
  const JsonDocument document(json, file);
  const JsonFields fields(document.Object(), file);
  const FamilyRow& family = FindFamily(fields);
  Config config;
  config.model_type = family.model_type;
  config.family = family.family;
  const bool mla = family.use_mla && fields.Bool("use_mla", true);
  config.attention = mla ? AttentionKind::kMla : AttentionKind::kMha;
  ParseSizes(fields, &config);
  mla ? ParseMla(fields, &config) : ParseMha(fields, &config);
  ParseRope(fields, &config);
  ParseMoe(fields, family, &config);
  config.fp8 = ParseFp8(fields);
  if (const auto bos = fields.Find("bos_token_id")) {
    config.bos_token_id = ParseTokenId(fields, "bos_token_id", *bos);
  }
  AddEosIds(fields, &config.eos_token_ids);
  CheckConfig(config, file);
  return config;
}

Config ReadConfig(const std::filesystem::path& model_dir) {
  CheckModelFolder(model_dir);
  const File file = File::OpenInFolder(model_dir, "config.json");
  Config config = ParseConfig(ReadWholeFile(file, kMaxConfigBytes), file.path());
  AddGenerationConfig(model_dir, &config);
  return config;
}

}  // namespace tandem
