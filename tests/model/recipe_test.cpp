// ctest: unit
#include "model/recipe.h"

#include <gtest/gtest.h>

#include <string>

#include "model/gguf_name.h"
#include "model/tensor_source.h"
#include "tests/support/expect_error.h"

namespace tandem {
namespace {

using test::ExpectError;

// The shape for which llama.cpp's choices are known: 27 layers, so n/8 = 3 and 7n/8 = 23.
const Model& V2Lite() {
  static const Model model = OpenSynthetic("deepseek-v2-lite");
  return model;
}

DType FormatOf(const Recipe& recipe, Role role, Part part, int layer, int expert = -1) {
  const TensorInfo& tensor = V2Lite().tensors.Get(role, part, layer, expert);
  const auto choice = ChooseFormat(recipe, tensor, V2Lite().config.num_hidden_layers);
  return choice ? choice->format : DType::kOther;
}

Recipe Mix(std::string_view mix) {
  Recipe recipe;
  recipe.mix = mix;
  return recipe;
}

TEST(Recipe, Q4KMGivesMoreBitsWhereLlamaCppDoes) {
  const Recipe recipe = Mix("q4_k_m");
  EXPECT_EQ(FormatOf(recipe, Role::kEmbedding, Part::kEmbed, -1), DType::kQ4_K);
  EXPECT_EQ(FormatOf(recipe, Role::kHead, Part::kLmHead, -1), DType::kQ6_K);
  EXPECT_EQ(FormatOf(recipe, Role::kAttention, Part::kQ, 0), DType::kQ4_K);
  EXPECT_EQ(FormatOf(recipe, Role::kAttention, Part::kO, 0), DType::kQ4_K);
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kGate, 1, 5), DType::kQ4_K);
  // Layers 0 to 2, 23 to 26, and every third from 5 on. Rows of 1408 take Q8_0 for Q6_K and Q5_0
  // for Q4_K, those of 2816 (the shared experts) are whole blocks.
  for (int layer = 1; layer < 27; ++layer) {
    const bool more = layer < 3 || layer >= 23 || (layer - 3) % 3 == 2;
    EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kDown, layer, 63),
              more ? DType::kQ8_0 : DType::kQ5_0)
        << "layer " << layer;
    EXPECT_EQ(FormatOf(recipe, Role::kShared, Part::kDown, layer),
              more ? DType::kQ6_K : DType::kQ4_K)
        << "layer " << layer;
    EXPECT_EQ(FormatOf(recipe, Role::kAttention, Part::kKvB, layer),
              more ? DType::kQ6_K : DType::kQ4_K)
        << "layer " << layer;
  }
}

TEST(Recipe, OtherMixes) {
  EXPECT_EQ(FormatOf(Mix("q4_k_s"), Role::kShared, Part::kDown, 2), DType::kQ5_K);
  EXPECT_EQ(FormatOf(Mix("q4_k_s"), Role::kShared, Part::kDown, 3), DType::kQ4_K);
  EXPECT_EQ(FormatOf(Mix("q5_k_m"), Role::kShared, Part::kDown, 5), DType::kQ6_K);
  EXPECT_EQ(FormatOf(Mix("q3_k_m"), Role::kShared, Part::kDown, 1), DType::kQ4_K);
  EXPECT_EQ(FormatOf(Mix("q3_k_m"), Role::kAttention, Part::kO, 9), DType::kQ4_K);
  EXPECT_EQ(FormatOf(Mix("q3_k_m"), Role::kAttention, Part::kKvB, 1), DType::kQ5_K);
  EXPECT_EQ(FormatOf(Mix("q2_k"), Role::kShared, Part::kDown, 9), DType::kQ3_K);
  EXPECT_EQ(FormatOf(Mix("iq4_xs"), Role::kShared, Part::kUp, 9), DType::kIQ4_XS);
  EXPECT_EQ(FormatOf(Mix("iq4_xs"), Role::kRouted, Part::kDown, 9, 0), DType::kIQ4_NL);
  EXPECT_EQ(FormatOf(Mix("mxfp4"), Role::kRouted, Part::kUp, 9, 0), DType::kMXFP4);
  EXPECT_EQ(FormatOf(Mix("mxfp4"), Role::kShared, Part::kUp, 9), DType::kQ8_0);
  EXPECT_EQ(FormatOf(Mix("bf16"), Role::kHead, Part::kLmHead, -1), DType::kBF16);
}

TEST(Recipe, EveryMixKnowsEveryTensor) {
  for (const std::string_view mix : MixNames()) {
    EXPECT_TRUE(GgufFileType(mix).has_value()) << mix;
    for (const TensorInfo& tensor : V2Lite().tensors.all()) {
      const auto choice = ChooseFormat(Mix(mix), tensor, 27);
      EXPECT_EQ(choice.has_value(), IsQuantizable(tensor)) << mix << " " << tensor.name;
      const DType format = choice ? choice->format : tensor.dtype;
      EXPECT_EQ(tensor.cols() % BlockElements(format), 0) << tensor.name;
    }
  }
}

TEST(Recipe, VectorsAndTheRouterAreLeftAlone) {
  const Recipe recipe = Mix("q8_0");
  EXPECT_EQ(FormatOf(recipe, Role::kRouter, Part::kRouterWeight, 1), DType::kOther);
  EXPECT_EQ(FormatOf(recipe, Role::kAttention, Part::kInputNorm, 1), DType::kOther);
  EXPECT_EQ(FormatOf(recipe, Role::kHead, Part::kFinalNorm, -1), DType::kOther);
}

TEST(Recipe, RulesStandAboveRolesAboveTheMix) {
  Recipe recipe = Mix("q4_k_m");
  recipe.by_role[static_cast<std::size_t>(Role::kRouted)] = DType::kQ8_0;
  recipe.rules = {{"blk.*.ffn_*_exps", 2, 4, DType::kQ6_K},
                  {"blk.*.ffn_up_exps", 3, 3, DType::kBF16}};
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kUp, 1, 0), DType::kQ8_0);
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kUp, 2, 0), DType::kQ6_K);
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kUp, 3, 0), DType::kBF16);
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kGate, 3, 0), DType::kQ6_K);
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kUp, 5, 0), DType::kQ8_0);
  EXPECT_EQ(FormatOf(recipe, Role::kShared, Part::kUp, 3), DType::kQ4_K);
}

TEST(Recipe, WithoutAMixTheOthersKeepTheirFormat) {
  Recipe recipe;
  EXPECT_TRUE(recipe.empty());
  recipe.by_role[static_cast<std::size_t>(Role::kRouted)] = DType::kQ4_0;
  EXPECT_FALSE(recipe.empty());
  EXPECT_EQ(FormatOf(recipe, Role::kRouted, Part::kUp, 1, 0), DType::kQ4_0);
  EXPECT_EQ(FormatOf(recipe, Role::kShared, Part::kUp, 1), DType::kOther);
}

TEST(Recipe, Globs) {
  EXPECT_TRUE(MatchesGlob("blk.*.ffn_down_exps", "blk.12.ffn_down_exps"));
  EXPECT_TRUE(MatchesGlob("*", ""));
  EXPECT_TRUE(MatchesGlob("a*b*c", "aXbXbXc"));
  EXPECT_TRUE(MatchesGlob("blk.?.attn*", "blk.3.attn_q"));
  EXPECT_FALSE(MatchesGlob("blk.?.attn*", "blk.13.attn_q"));
  EXPECT_FALSE(MatchesGlob("a*b", "abc"));
  EXPECT_FALSE(MatchesGlob("", "a"));
  const std::string many(2000, 'a');
  EXPECT_FALSE(MatchesGlob("a*a*a*a*a*a*a*a*b", many));  // no exponential time
}

TEST(Recipe, UnknownNamesAreRefused) {
  ExpectError<ConfigError>(ExitCode::kConfig, {"--quantize", "q9_k", "q4_k_m"},
                           [] { CheckMix("q9_k", "--quantize"); });
  ExpectError<ConfigError>(ExitCode::kConfig, {"--experts", "f8_e4m3", "q4_k"},
                           [] { ParseFormat("f8_e4m3", "--experts"); });
  EXPECT_EQ(ParseFormat("Q4_K", "x"), DType::kQ4_K);
}

TEST(Recipe, NamesInGguf) {
  const auto name = [](Role role, Part part, int layer, int expert = -1) {
    return GgufName(V2Lite().tensors.Get(role, part, layer, expert));
  };
  EXPECT_EQ(name(Role::kEmbedding, Part::kEmbed, -1), "token_embd.weight");
  EXPECT_EQ(name(Role::kHead, Part::kFinalNorm, -1), "output_norm.weight");
  EXPECT_EQ(name(Role::kHead, Part::kLmHead, -1), "output.weight");
  EXPECT_EQ(name(Role::kAttention, Part::kKvA, 3), "blk.3.attn_kv_a_mqa.weight");
  EXPECT_EQ(name(Role::kDense, Part::kPostNorm, 3), "blk.3.ffn_norm.weight");
  EXPECT_EQ(name(Role::kDense, Part::kDown, 0), "blk.0.ffn_down.weight");
  EXPECT_EQ(name(Role::kShared, Part::kGate, 26), "blk.26.ffn_gate_shexp.weight");
  EXPECT_EQ(name(Role::kRouted, Part::kUp, 1, 63), "blk.1.ffn_up_exps.weight");
  EXPECT_EQ(name(Role::kRouter, Part::kRouterWeight, 1), "blk.1.ffn_gate_inp.weight");
}

}  // namespace
}  // namespace tandem
