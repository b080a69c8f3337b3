// ctest: unit
#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using nlohmann::json;
using test::ExpectBadData;
using test::ExpectError;
using test::TempFolder;

json Base(const std::string& name) {
  return json::parse(
      test::ReadText(std::string(TANDEM_SOURCE_DIR "/tests/golden/") + name + "/config.json"));
}

Config Parse(const json& value) { return ParseConfig(value.dump(), "config.json"); }

// The golden's config with one field changed (null removes it) must be refused with these words.
void ExpectRefused(const std::string& base, const std::string& pointer, const json& value,
                   std::initializer_list<std::string_view> words) {
  SCOPED_TRACE(base + " " + pointer + " = " + value.dump());
  json changed = Base(base);
  changed[json::json_pointer(pointer)] = value;
  ExpectBadData({"config.json"}, [&] { Parse(changed); });
  ExpectBadData(words, [&] { Parse(changed); });
}

Config Changed(const std::string& base, const json& patch) {
  json changed = Base(base);
  changed.merge_patch(patch);
  return Parse(changed);
}

// --- what good files give -----------------------------------------------------------------------

TEST(Config, V2Lite) {
  const Config c = Parse(Base("v2-lite"));
  EXPECT_EQ(c.family, Family::kDeepSeekV2);
  EXPECT_EQ(c.attention, AttentionKind::kMla);
  EXPECT_EQ(c.hidden_size, 128);
  EXPECT_EQ(c.num_hidden_layers, 3);
  EXPECT_EQ(c.q_lora_rank, 0);  // null
  EXPECT_EQ(c.kv_lora_rank, 48);
  EXPECT_EQ(c.qk_head_dim(), 48);
  EXPECT_EQ(c.kv_width(), 64);
  EXPECT_EQ(c.n_group, 1);  // null
  EXPECT_EQ(c.topk_group, 1);
  EXPECT_EQ(c.scoring_func, "softmax");  // absent
  EXPECT_EQ(c.topk_method, "greedy");
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
  EXPECT_FALSE(c.fp8);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<std::int32_t>{1});
  ASSERT_TRUE(c.rope_scaling.has_value());
  EXPECT_EQ(c.rope_scaling->factor, 40);
  EXPECT_EQ(c.rope_scaling->original_max_position_embeddings, 64);
  EXPECT_FALSE(c.IsMoeLayer(0));
  EXPECT_TRUE(c.IsMoeLayer(1));
}

TEST(Config, V3TakesItsRouterForGranted) {
  const Config c = Parse(Base("v3"));
  EXPECT_EQ(c.family, Family::kDeepSeekV3);
  EXPECT_EQ(c.scoring_func, "sigmoid");
  EXPECT_EQ(c.topk_method, "noaux_tc");
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.n_group, 4);
}

TEST(Config, DemoModelIsFp8WithMtp) {
  const Config c = ReadConfig(TANDEM_SOURCE_DIR "/model/demo");
  EXPECT_TRUE(c.fp8);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_FALSE(c.rope_scaling.has_value());
}

TEST(Config, DeepSeekMoeHasMultiHeadAttention) {
  const Config c = Parse(Base("deepseek"));
  EXPECT_EQ(c.family, Family::kDeepSeekMoe);
  EXPECT_EQ(c.attention, AttentionKind::kMha);
  EXPECT_EQ(c.qk_nope_head_dim, 0);
  EXPECT_EQ(c.qk_rope_head_dim, 32);
  EXPECT_EQ(c.v_head_dim, 32);
  EXPECT_EQ(c.kv_width(), 2 * 4 * 32);
  EXPECT_EQ(c.routed_scaling_factor, 1);
  EXPECT_DOUBLE_EQ(c.softmax_scale(), 1 / std::sqrt(32.0));
  EXPECT_EQ(Changed("deepseek", {{"head_dim", 64}}).v_head_dim, 64);
  EXPECT_EQ(Changed("deepseek", {{"num_key_value_heads", 2}}).kv_width(), 2 * 2 * 32);
}

TEST(Config, UseMlaFalseIsMultiHeadAttention) {
  const json patch{{"use_mla", false}, {"rope_scaling", nullptr}, {"head_dim", nullptr}};
  const Config c = Changed("v2-lite", patch);
  EXPECT_EQ(c.attention, AttentionKind::kMha);
  EXPECT_EQ(c.v_head_dim, 32);
}

TEST(Config, DenseModelNeedsNoMoeFields) {
  const Config c = Changed("v2-lite", {{"n_routed_experts", nullptr},
                                       {"num_experts_per_tok", nullptr},
                                       {"moe_intermediate_size", nullptr}});
  EXPECT_EQ(c.n_routed_experts, 0);
  EXPECT_FALSE(c.IsMoeLayer(2));
}

TEST(Config, IgnoresTrainingAndCodeFields) {
  const Config c = Changed("v3", {{"auto_map", {{"AutoModel", "evil.Model"}}},
                                  {"rope_interleave", false},
                                  {"ep_size", 8},
                                  {"aux_loss_alpha", 0.001}});
  EXPECT_EQ(c.model_type, "deepseek_v3");
}

TEST(Config, MoeLayerFrequency) {
  const Config c = Changed("v3", {{"moe_layer_freq", 2}});
  EXPECT_FALSE(c.IsMoeLayer(1));
  EXPECT_TRUE(c.IsMoeLayer(2));
  EXPECT_FALSE(c.IsMoeLayer(3));
}

// --- RoPE ---------------------------------------------------------------------------------------

Config V3Rope(double mscale) {
  Config c;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.rope_scaling = RopeScaling{40, 32, 1, mscale, mscale, 4096};
  return c;
}

// Values of architectures section 18, given to 9 digits there.
TEST(Config, YarnFrequencies) {
  const std::vector<double> f = V3Rope(1).inv_freq();
  ASSERT_EQ(f.size(), 32u);
  const std::pair<int, double> golden[] = {{0, 1},
                                           {5, 0.237137371},
                                           {10, 0.0562341325},
                                           {11, 0.0390069266},
                                           {15, 0.00833450895},
                                           {20, 0.000790569415},
                                           {22, 0.000177827941},
                                           {23, 3.33380358e-05},
                                           {31, 3.33380358e-06}};
  for (const auto& [i, expected] : golden) {
    EXPECT_NEAR(f[static_cast<std::size_t>(i)], expected, 1e-8 * expected) << i;
  }
}

TEST(Config, YarnFrequenciesWithEqualBetas) {
  Config c = V3Rope(1);
  c.rope_theta = 50000;
  c.rope_scaling->beta_fast = 1;  // lo 19, hi 20
  const std::vector<double> f = c.inv_freq();
  EXPECT_DOUBLE_EQ(f[19], std::pow(50000, -38.0 / 64));
  EXPECT_DOUBLE_EQ(f[20], std::pow(50000, -40.0 / 64) / 40);
}

TEST(Config, SoftmaxScales) {
  EXPECT_NEAR(V3Rope(1).softmax_scale(), 0.1352337789, 1e-10);
  EXPECT_NEAR(V3Rope(0.707).softmax_scale(), 0.1147213868, 1e-10);
  EXPECT_DOUBLE_EQ(V3Rope(1).rope_attention_factor(), 1);
  Config plain = V3Rope(1);
  plain.rope_scaling.reset();
  EXPECT_NEAR(plain.softmax_scale(), 0.0721687836, 1e-10);
  EXPECT_DOUBLE_EQ(plain.rope_attention_factor(), 1);
  EXPECT_DOUBLE_EQ(plain.inv_freq()[1], std::pow(10000, -2.0 / 64));
}

TEST(Config, MscaleAloneScalesCosAndSin) {
  Config c = V3Rope(1);
  c.rope_scaling->mscale_all_dim = 0;
  EXPECT_NEAR(c.rope_attention_factor(), 1.3688879, 1e-7);
  EXPECT_NEAR(c.softmax_scale(), 0.0721687836, 1e-10);
}

TEST(Config, RopeParametersIsTheNewerName) {
  json value = Base("v3");
  json rope = value["rope_scaling"];
  rope.erase("type");
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = 50000.0;
  rope["partial_rotary_factor"] = 1.0;
  value.erase("rope_scaling");
  value.erase("rope_theta");
  value["rope_parameters"] = rope;
  const Config c = Parse(value);
  EXPECT_EQ(c.rope_theta, 50000);
  ASSERT_TRUE(c.rope_scaling.has_value());
  EXPECT_EQ(c.rope_scaling->factor, 40);
}

TEST(Config, DefaultRopeIsNoScaling) {
  const json patch{{"rope_scaling", nullptr},
                   {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 20000}}}};
  const Config c = Changed("v3", patch);
  EXPECT_FALSE(c.rope_scaling.has_value());
  EXPECT_EQ(c.rope_theta, 20000);
}

TEST(Config, RefusesOtherRopeScalings) {
  for (const char* type : {"linear", "dynamic", "longrope", "llama3"}) {
    ExpectRefused("v3", "/rope_scaling/type", type, {"rope_scaling.type", type, "yarn"});
  }
  ExpectRefused("deepseek", "/rope_scaling", {{"type", "linear"}, {"factor", 2}}, {"linear"});
  ExpectRefused("deepseek", "/rope_scaling", Base("v3")["rope_scaling"], {"multi-head attention"});
  ExpectRefused("v3", "/rope_scaling/factor", nullptr, {"rope_scaling.factor", "missing"});
  ExpectRefused("v3", "/rope_scaling/factor", 0.5, {"rope_scaling.factor", "from 1", "found 0.5"});
  ExpectRefused("v3", "/rope_scaling/original_max_position_embeddings", nullptr, {"missing"});
  ExpectRefused("v3", "/rope_scaling/truncate", false, {"truncate", "not supported"});
  ExpectRefused("v3", "/rope_scaling/attention_factor", 2.0, {"attention_factor", "expected 1"});
  ExpectRefused("v3", "/rope_scaling", "yarn", {"rope_scaling", "expected an object"});
}

// --- what is refused ----------------------------------------------------------------------------

// F29
TEST(Config, RefusesOtherArchitecturesByName) {
  for (const char* type : {"deepseek_v32", "deepseek_v4", "kimi_k2", "llama"}) {
    ExpectRefused("v3", "/model_type", type,
                  {type, "not supported", "deepseek, deepseek_v2, deepseek_v3"});
  }
  ExpectRefused("v3", "/model_type", nullptr, {"model_type", "missing", "deepseek_v2"});
}

TEST(Config, RefusesWhatIsNoJson) {
  const auto parse = [](std::string_view text) { ParseConfig(text, "config.json"); };
  ExpectBadData({"config.json", "not valid JSON"}, [&] { parse(""); });
  ExpectBadData({"config.json", "not valid JSON"}, [&] { parse("{\"hidden_size\": NaN}"); });
  ExpectBadData({"config.json", "expected a JSON object"}, [&] { parse("[1]"); });
  ExpectBadData({"nested deeper"},
                [&] { parse(std::string(100'000, '[') + std::string(100'000, ']')); });
  ExpectBadData({"hidden_size", "given twice"},
                [&] { parse(R"({"hidden_size": 1, "hidden_size": 2})"); });
}

// F18: field, range and finding are named.
TEST(Config, RefusesAbsurdSizes) {
  const std::int64_t huge = 1'000'000'000;
  for (const char* field :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "vocab_size", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
        "n_routed_experts", "moe_intermediate_size", "num_experts_per_tok"}) {
    const std::string pointer = std::string("/") + field;
    ExpectRefused("v3", pointer, huge, {field, " to ", "found 1000000000"});
    ExpectRefused("v3", pointer, -1, {field, "found -1"});
    ExpectRefused("v3", pointer, "128", {field, "found \"128\""});
    ExpectRefused("v3", pointer, 12.5, {field, "found 12.5"});
    ExpectRefused("v3", pointer, 1e300, {field, "found"});
    ExpectRefused("v3", pointer, ~std::uint64_t{0}, {field, "found 18446744073709551615"});
    if (std::string_view(field) == "n_routed_experts") continue;  // 0: a dense model
    ExpectRefused("v3", pointer, 0, {field, "from 1", "found 0"});
    ExpectRefused("v3", pointer, nullptr, {field, "missing"});
  }
}

TEST(Config, RefusesAbsurdNumbers) {
  ExpectRefused("v3", "/rope_theta", 0, {"rope_theta", "from 10"});
  ExpectRefused("v3", "/rope_theta", "x", {"rope_theta", "expected a number"});
  ExpectRefused("v3", "/rms_norm_eps", -1e-6, {"rms_norm_eps"});
  ExpectRefused("v3", "/routed_scaling_factor", 0, {"routed_scaling_factor"});
  ExpectRefused("v3", "/routed_scaling_factor", nullptr, {"routed_scaling_factor", "missing"});
  ExpectRefused("v3", "/norm_topk_prob", nullptr, {"norm_topk_prob", "missing"});
  ExpectRefused("v3", "/norm_topk_prob", 1, {"norm_topk_prob", "true or false"});
  ExpectRefused("v3", "/num_nextn_predict_layers", 65, {"num_nextn_predict_layers"});
}

TEST(Config, RefusesRelationsThatCannotBe) {
  ExpectRefused("v3", "/n_group", 3, {"n_group", "divisor", "(16)", "found 3"});
  ExpectRefused("v3", "/topk_group", 5, {"topk_group", "at most n_group (4)", "found 5"});
  ExpectRefused("v3", "/num_experts_per_tok", 9, {"num_experts_per_tok", "the 8 experts"});
  ExpectRefused("v2-lite", "/num_experts_per_tok", 17, {"num_experts_per_tok", "16", "found 17"});
  ExpectRefused("v3", "/n_group", 16, {"2 experts in a group"});
  ExpectRefused("v3", "/qk_rope_head_dim", 15, {"qk_rope_head_dim", "even"});
  ExpectRefused("deepseek", "/head_dim", 15, {"head_dim", "even"});
  ExpectRefused("deepseek", "/num_attention_heads", 3, {"hidden_size", "multiple", "(3)"});
  ExpectRefused("deepseek", "/num_key_value_heads", 3, {"num_key_value_heads (3)"});
}

TEST(Config, RefusesUnsupportedChoicesByName) {
  ExpectRefused("v3", "/hidden_act", "gelu", {"hidden_act", "gelu", "silu"});
  ExpectRefused("v3", "/attention_bias", true, {"attention_bias", "not supported"});
  ExpectRefused("v3", "/scoring_func", "sqrtsoftplus", {"scoring_func", "sqrtsoftplus"});
  ExpectRefused("v2", "/topk_method", "gready", {"topk_method", "gready", "greedy"});
}

TEST(Config, RefusesOtherQuantizationsByName) {
  const json fp8{{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 128}}};
  EXPECT_TRUE(Changed("v3", {{"quantization_config", fp8}}).fp8);
  ExpectRefused("v3", "/quantization_config", {{"quant_method", "gptq"}}, {"'gptq'", "fp8"});
  ExpectRefused("v3", "/quantization_config", json::object(), {"quant_method", "missing"});
  json other = fp8;
  other["fmt"] = "e5m2";
  ExpectRefused("v3", "/quantization_config", other, {"e5m2", "e4m3"});
  other = fp8;
  other["weight_block_size"] = {1, 128};
  ExpectRefused("v3", "/quantization_config", other,
                {"weight_block_size", "[128, 128]", "[1,128]"});
  other.erase("weight_block_size");
  ExpectRefused("v3", "/quantization_config", other, {"weight_block_size", "found nothing"});
}

// F34
TEST(Config, RefusesTokenIdsBeyondTheVocabulary) {
  ExpectRefused("v3", "/bos_token_id", 384, {"bos_token_id", "vocab_size (384)", "found 384"});
  ExpectRefused("v3", "/eos_token_id", {1, 384}, {"eos_token_id", "found 384"});
  ExpectRefused("v3", "/eos_token_id", -1, {"eos_token_id", "found -1"});
  ExpectRefused("v3", "/eos_token_id", {"x"}, {"eos_token_id", "token id"});
}

TEST(Config, CollectsTheIdsThatEndAnAnswer) {
  EXPECT_EQ(Changed("v3", {{"eos_token_id", {5, 6, 5}}}).eos_token_ids,
            (std::vector<std::int32_t>{5, 6}));
  EXPECT_TRUE(Changed("v3", {{"eos_token_id", nullptr}}).eos_token_ids.empty());
  const TempFolder folder;
  folder.Write("config.json", Base("v3").dump());
  EXPECT_EQ(ReadConfig(folder.path()).eos_token_ids, std::vector<std::int32_t>{1});
  folder.Write("generation_config.json", R"({"eos_token_id": [1, 7], "temperature": 0.6})");
  EXPECT_EQ(ReadConfig(folder.path()).eos_token_ids, (std::vector<std::int32_t>{1, 7}));
  folder.Write("generation_config.json", R"({"eos_token_id": 999})");
  ExpectBadData({"generation_config.json", "999"}, [&] { ReadConfig(folder.path()); });
}

TEST(Config, NamesWhatIsNoModelFolder) {
  const TempFolder folder;
  ExpectError<SystemError>(ExitCode::kMissingFile, {"/none", "no such model folder"},
                           [&] { ReadConfig(folder / "none"); });
  ExpectError<SystemError>(ExitCode::kMissingFile, {"no config.json", "deepseek_v3"},
                           [&] { ReadConfig(folder.path()); });
  folder.Write("file", "");
  ExpectError<SystemError>(ExitCode::kIo, {"expected a model folder"},
                           [&] { ReadConfig(folder / "file"); });
  std::filesystem::create_directory(folder / "config.json");
  ExpectError<SystemError>(ExitCode::kIo, {"config.json", "a folder"},
                           [&] { ReadConfig(folder.path()); });
}

}  // namespace
}  // namespace tandem
