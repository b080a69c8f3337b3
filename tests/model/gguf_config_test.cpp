// ctest: unit
// From metadata to Config: what the published models' files say, new ones and old.
#include "model/gguf_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "model/open_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

using Edit = std::function<void(GgufBuilder&)>;

void U32s(GgufBuilder& gguf, std::initializer_list<std::pair<const char*, std::uint32_t>> pairs) {
  for (const auto& [key, value] : pairs) gguf.U32(key, value);
}

// The keys of all deepseek2 files, with V3's values.
GgufBuilder V3() {
  GgufBuilder gguf;
  gguf.String("general.architecture", "deepseek2");
  U32s(gguf, {{"deepseek2.block_count", 61},
              {"deepseek2.context_length", 163840},
              {"deepseek2.embedding_length", 7168},
              {"deepseek2.feed_forward_length", 18432},
              {"deepseek2.leading_dense_block_count", 3},
              {"deepseek2.vocab_size", 129280},
              {"deepseek2.attention.head_count", 128},
              {"deepseek2.attention.head_count_kv", 1},
              {"deepseek2.attention.q_lora_rank", 1536},
              {"deepseek2.attention.kv_lora_rank", 512},
              {"deepseek2.attention.key_length", 576},
              {"deepseek2.attention.value_length", 512},
              {"deepseek2.attention.key_length_mla", 192},
              {"deepseek2.attention.value_length_mla", 128},
              {"deepseek2.rope.dimension_count", 64},
              {"deepseek2.rope.scaling.original_context_length", 4096},
              {"deepseek2.expert_count", 256},
              {"deepseek2.expert_used_count", 8},
              {"deepseek2.expert_shared_count", 1},
              {"deepseek2.expert_feed_forward_length", 2048},
              {"deepseek2.expert_gating_func", 2},
              {"deepseek2.expert_group_count", 8},
              {"deepseek2.expert_group_used_count", 4},
              {"tokenizer.ggml.bos_token_id", 0},
              {"tokenizer.ggml.eos_token_id", 1}});
  gguf.F32("deepseek2.attention.layer_norm_rms_epsilon", 1e-6F);
  gguf.F32("deepseek2.expert_weights_scale", 2.5F).Bool("deepseek2.expert_weights_norm", true);
  gguf.F32("deepseek2.rope.freq_base", 10000).String("deepseek2.rope.scaling.type", "yarn");
  gguf.F32("deepseek2.rope.scaling.factor", 40);
  gguf.F32("deepseek2.rope.scaling.yarn_log_multiplier", 0.1F);
  return gguf.Add({"output.weight", {1}, 0, "1234", {}, {}});
}

GgufBuilder& Set(GgufBuilder& gguf, const char* key, std::uint32_t value) {
  return gguf.Without(key).U32(key, value);
}

// V2-Lite's differences.
void MakeLite(GgufBuilder& gguf) {
  Set(gguf, "deepseek2.block_count", 27).Without("deepseek2.attention.q_lora_rank");
  Set(gguf, "deepseek2.embedding_length", 2048);
  Set(gguf, "deepseek2.feed_forward_length", 10944);
  Set(gguf, "deepseek2.leading_dense_block_count", 1);
  Set(gguf, "deepseek2.vocab_size", 102400);
  Set(gguf, "deepseek2.attention.head_count", 16);
  Set(gguf, "deepseek2.expert_count", 64);
  Set(gguf, "deepseek2.expert_used_count", 6);
  Set(gguf, "deepseek2.expert_shared_count", 2);
  Set(gguf, "deepseek2.expert_feed_forward_length", 1408);
  Set(gguf, "deepseek2.expert_gating_func", 1);
  gguf.Without("deepseek2.expert_group_count").Without("deepseek2.expert_group_used_count");
  gguf.Without("deepseek2.expert_weights_norm").Without("deepseek2.expert_weights_scale");
  gguf.Without("deepseek2.rope.scaling.yarn_log_multiplier");
  gguf.F32("deepseek2.rope.scaling.yarn_log_multiplier", 0.0707F);
}

// As files were before attention had keys for its form on the latent.
void MakeOld(GgufBuilder& gguf, std::uint32_t heads) {
  gguf.Without("deepseek2.attention.key_length_mla")
      .Without("deepseek2.attention.value_length_mla");
  Set(gguf, "deepseek2.attention.head_count_kv", heads);
  Set(gguf, "deepseek2.attention.key_length", 192);
  Set(gguf, "deepseek2.attention.value_length", 128);
}

Config Read(const GgufBuilder& gguf) {
  const TempFolder folder;
  return ReadModelConfig(folder.Write("model.gguf", gguf.Build()).string());
}

Config ReadWith(const Edit& edit) {
  GgufBuilder gguf = V3();
  edit(gguf);
  return Read(gguf);
}

void ExpectRefused(std::initializer_list<std::string_view> words, const Edit& edit) {
  ExpectBadData(words, [&] { ReadWith(edit); });
  ExpectBadData({"model.gguf"}, [&] { ReadWith(edit); });
}

// All fields against those of the same model's config.json, as OpenSynthetic has it.
void ExpectSameModel(const Config& a, const Config& b) {
  EXPECT_EQ(a.model_type, b.model_type);
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.attention, b.attention);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.num_hidden_layers, b.num_hidden_layers);
  EXPECT_EQ(a.num_attention_heads, b.num_attention_heads);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.q_lora_rank, b.q_lora_rank);
  EXPECT_EQ(a.kv_lora_rank, b.kv_lora_rank);
  EXPECT_EQ(a.qk_nope_head_dim, b.qk_nope_head_dim);
  EXPECT_EQ(a.qk_rope_head_dim, b.qk_rope_head_dim);
  EXPECT_EQ(a.v_head_dim, b.v_head_dim);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.softmax_scale(), b.softmax_scale());
  EXPECT_EQ(a.inv_freq(), b.inv_freq());
  EXPECT_EQ(a.rope_attention_factor(), b.rope_attention_factor());
  EXPECT_EQ(a.n_routed_experts, b.n_routed_experts);
  EXPECT_EQ(a.n_shared_experts, b.n_shared_experts);
  EXPECT_EQ(a.num_experts_per_tok, b.num_experts_per_tok);
  EXPECT_EQ(a.moe_intermediate_size, b.moe_intermediate_size);
  EXPECT_EQ(a.first_k_dense_replace, b.first_k_dense_replace);
  EXPECT_EQ(a.moe_layer_freq, b.moe_layer_freq);
  EXPECT_EQ(a.n_group, b.n_group);
  EXPECT_EQ(a.topk_group, b.topk_group);
  EXPECT_EQ(a.scoring_func, b.scoring_func);
  EXPECT_EQ(a.topk_method, b.topk_method);
  EXPECT_EQ(a.norm_topk_prob, b.norm_topk_prob);
  EXPECT_EQ(a.routed_scaling_factor, b.routed_scaling_factor);
}

TEST(GgufConfig, V3) {
  const Config c = Read(V3());
  ExpectSameModel(c, OpenSynthetic("deepseek-v3").config);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<std::int32_t>{1});
  EXPECT_FALSE(c.fp8);
}

// Files that know nothing of groups are still of a model that has them.
TEST(GgufConfig, OldV3WithoutGroupKeys) {
  const Config c = ReadWith([](GgufBuilder& gguf) {
    MakeOld(gguf, 128);
    gguf.Without("deepseek2.expert_group_count").Without("deepseek2.expert_group_used_count");
  });
  ExpectSameModel(c, OpenSynthetic("deepseek-v3").config);
}

TEST(GgufConfig, V2LiteNewAndOld) {
  ExpectSameModel(ReadWith(MakeLite), OpenSynthetic("deepseek-v2-lite").config);
  const Config old = ReadWith([](GgufBuilder& gguf) {
    MakeLite(gguf);
    MakeOld(gguf, 16);
    gguf.Without("deepseek2.expert_gating_func");
  });
  ExpectSameModel(old, OpenSynthetic("deepseek-v2-lite").config);
}

TEST(GgufConfig, V2ChoosesGroupsAlsoWithoutTheirKeys) {
  const auto v2 = [](GgufBuilder& gguf) {
    Set(gguf, "deepseek2.block_count", 60);
    Set(gguf, "deepseek2.embedding_length", 5120);
    Set(gguf, "deepseek2.feed_forward_length", 12288);
    Set(gguf, "deepseek2.leading_dense_block_count", 1);
    Set(gguf, "deepseek2.vocab_size", 102400);
    Set(gguf, "deepseek2.expert_count", 160);
    Set(gguf, "deepseek2.expert_used_count", 6);
    Set(gguf, "deepseek2.expert_shared_count", 2);
    Set(gguf, "deepseek2.expert_feed_forward_length", 1536);
    Set(gguf, "deepseek2.expert_gating_func", 1);
    gguf.Without("deepseek2.expert_weights_norm").Without("deepseek2.expert_weights_scale");
    gguf.F32("deepseek2.expert_weights_scale", 16);
    Set(gguf, "deepseek2.expert_group_used_count", 3);
  };
  const Config published = OpenSynthetic("deepseek-v2").config;
  ExpectSameModel(ReadWith(v2), published);
  const Config old = ReadWith([&](GgufBuilder& gguf) {
    v2(gguf);
    gguf.Without("deepseek2.expert_group_count").Without("deepseek2.expert_group_used_count");
  });
  ExpectSameModel(old, published);
}

TEST(GgufConfig, KimiK2HasMoreExpertsAndOneGroup) {
  for (const bool with_keys : {true, false}) {
    const Config c = ReadWith([&](GgufBuilder& gguf) {
      Set(gguf, "deepseek2.expert_count", 384);
      Set(gguf, "deepseek2.attention.head_count", 64);
      Set(gguf, "deepseek2.vocab_size", 163840);
      Set(gguf, "deepseek2.expert_group_count", 1);
      Set(gguf, "deepseek2.expert_group_used_count", 1);
      gguf.Without("deepseek2.rope.freq_base").F32("deepseek2.rope.freq_base", 50000);
      gguf.F32("deepseek2.rope.scaling.yarn_beta_fast", 1);
      gguf.F32("deepseek2.rope.scaling.yarn_beta_slow", 1);
      if (with_keys) return;
      gguf.Without("deepseek2.expert_group_count").Without("deepseek2.expert_group_used_count");
    });
    EXPECT_EQ(c.model_type, "deepseek_v3");
    EXPECT_EQ(c.n_routed_experts, 384);
    EXPECT_EQ(c.n_group, 1);
    EXPECT_EQ(c.topk_group, 1);
    EXPECT_EQ(c.topk_method, "noaux_tc");
    EXPECT_EQ(c.rope_theta, 50000);
    EXPECT_EQ(c.rope_scaling->beta_fast, 1);
  }
}

// A file that does not say how experts are scored, but corrects their choice.
TEST(GgufConfig, ACorrectionBiasMeansSigmoid) {
  const auto without = [](GgufBuilder& gguf) { gguf.Without("deepseek2.expert_gating_func"); };
  EXPECT_EQ(ReadWith(without).scoring_func, "softmax");
  const Config c = ReadWith([&](GgufBuilder& gguf) {
    without(gguf);
    gguf.Add({"blk.3.exp_probs_b.bias", {1}, 0, "1234", {}, {}});
  });
  EXPECT_EQ(c.scoring_func, "sigmoid");
}

TEST(GgufConfig, Moe16b) {
  GgufBuilder gguf;
  gguf.String("general.architecture", "deepseek").String("deepseek.rope.scaling.type", "none");
  U32s(gguf, {{"deepseek.block_count", 28},
              {"deepseek.context_length", 4096},
              {"deepseek.embedding_length", 2048},
              {"deepseek.feed_forward_length", 10944},
              {"deepseek.attention.head_count", 16},
              {"deepseek.attention.head_count_kv", 16},
              {"deepseek.rope.dimension_count", 128},
              {"deepseek.leading_dense_block_count", 1},
              {"deepseek.vocab_size", 102400},
              {"deepseek.expert_count", 64},
              {"deepseek.expert_used_count", 6},
              {"deepseek.expert_shared_count", 2},
              {"deepseek.expert_feed_forward_length", 1408}});
  gguf.F32("deepseek.attention.layer_norm_rms_epsilon", 1e-6F);
  gguf.F32("deepseek.rope.freq_base", 10000).F32("deepseek.expert_weights_scale", 1);
  gguf.Add({"output.weight", {1}, 0, "1234", {}, {}});
  ExpectSameModel(Read(gguf), OpenSynthetic("deepseek-moe-16b").config);
  gguf.U32("deepseek.attention.key_length", 64);
  ExpectBadData({"attention.key_length", "expected 128", "64"}, [&] { Read(gguf); });
}

TEST(GgufConfig, OtherDetails) {
  const Config c = ReadWith([](GgufBuilder& gguf) {
    gguf.U32("deepseek2.nextn_predict_layers", 1).WithoutTensor("output.weight");
    gguf.U32("tokenizer.ggml.eot_token_id", 5);
    gguf.Without("deepseek2.vocab_size");
    gguf.Add({"token_embd.weight", {1, 300}, 0, std::string(1200, '\0'), {}, {}});
  });
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.num_hidden_layers, 60);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(c.eos_token_ids, (std::vector<std::int32_t>{1, 5}));
  EXPECT_EQ(c.vocab_size, 300);
}

TEST(GgufConfig, RefusesWhatItDoesNotKnow) {
  ExpectRefused({"general.architecture", "'llama'", "deepseek, deepseek2"}, [](auto& gguf) {
    gguf.Without("general.architecture").String("general.architecture", "llama");
  });
  ExpectRefused({"general.architecture", "missing"},
                [](auto& gguf) { gguf.Without("general.architecture"); });
  ExpectRefused({"expert_gating_func", "4"},
                [](auto& gguf) { Set(gguf, "deepseek2.expert_gating_func", 4); });
  for (const char* type : {"linear", "longrope"}) {
    ExpectRefused({"rope.scaling.type", type}, [&](auto& gguf) {
      gguf.Without("deepseek2.rope.scaling.type").String("deepseek2.rope.scaling.type", type);
    });
  }
  ExpectRefused({"rope.scaling.type", "linear"},
                [](auto& gguf) { gguf.Without("deepseek2.rope.scaling.type"); });
  for (const char* key : {"block_count", "embedding_length", "attention.kv_lora_rank",
                          "rope.dimension_count", "expert_used_count"}) {
    const std::string whole = std::string("deepseek2.") + key;
    ExpectRefused({whole, "missing"}, [&](auto& gguf) { gguf.Without(whole); });
  }
}

TEST(GgufConfig, F18AbsurdNumbers) {
  const std::vector<std::pair<const char*, std::uint32_t>> absurd{
      {"deepseek2.expert_count", 1'000'000},
      {"deepseek2.expert_used_count", 0},
      {"deepseek2.expert_used_count", 257},
      {"deepseek2.block_count", 1'000'000'000},
      {"deepseek2.block_count", 0},
      {"deepseek2.embedding_length", 0xFFFFFFFF},
      {"deepseek2.attention.head_count", 0},
      {"deepseek2.attention.key_length_mla", 64},  // nothing left beside RoPE
      {"deepseek2.attention.kv_lora_rank", 0},
      {"deepseek2.rope.dimension_count", 63},
      {"deepseek2.context_length", 0},
      {"deepseek2.vocab_size", 0},
      {"deepseek2.expert_group_count", 7},
      {"deepseek2.expert_group_count", 65},
      {"tokenizer.ggml.eos_token_id", 129280},
  };
  for (const auto& [key, value] : absurd) {
    SCOPED_TRACE(fmt::format("{} = {}", key, value));
    ExpectRefused({}, [&, k = key, v = value](auto& gguf) { Set(gguf, k, v); });
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const char* key : {"deepseek2.rope.freq_base", "deepseek2.rope.scaling.factor",
                          "deepseek2.expert_weights_scale"}) {
    for (const float value : {nan, -1.0F, std::numeric_limits<float>::infinity()}) {
      ExpectRefused({key}, [&](auto& gguf) { gguf.Without(key).F32(key, value); });
    }
  }
  ExpectRefused({"block_count", "besides 61"},
                [](auto& gguf) { gguf.U32("deepseek2.nextn_predict_layers", 61); });
}

// No experts at all is a model with dense layers only.
TEST(GgufConfig, WithoutExperts) {
  const Config c = ReadWith([](auto& gguf) { Set(gguf, "deepseek2.expert_count", 0); });
  EXPECT_EQ(c.n_routed_experts, 0);
  EXPECT_FALSE(c.IsMoeLayer(10));
}

}  // namespace
}  // namespace tandem::test
