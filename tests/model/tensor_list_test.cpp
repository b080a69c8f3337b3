// ctest: unit
#include "model/tensor_list.h"

#include <gtest/gtest.h>

#include "memory/error.h"
#include "model/synthetic.h"

namespace tandem {
namespace {

using Shape = std::vector<std::int64_t>;

Config Published(const std::string& shape) { return OpenSynthetic(shape).config; }

std::int64_t Parameters(const TensorList& list) {
  std::int64_t sum = 0;
  for (int role = 0; role < kNumRoles; ++role) sum += list.Elements(static_cast<Role>(role));
  return sum;
}

const TensorInfo* Named(const TensorList& list, const std::string& name) {
  for (const TensorInfo& tensor : list.all()) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

void ExpectTensor(const TensorList& list, const std::string& name, const Shape& shape) {
  const TensorInfo* tensor = Named(list, name);
  ASSERT_NE(tensor, nullptr) << name;
  EXPECT_EQ(tensor->shape, shape) << name;
}

// Shapes of architectures section 1.4.
TEST(TensorList, DeepSeekMoe16b) {
  const TensorList list = ExpectedTensors(Published("deepseek-moe-16b"), DType::kBF16);
  ExpectTensor(list, "model.embed_tokens.weight", {102400, 2048});
  ExpectTensor(list, "model.layers.0.self_attn.k_proj.weight", {2048, 2048});
  ExpectTensor(list, "model.layers.0.mlp.up_proj.weight", {10944, 2048});
  ExpectTensor(list, "model.layers.27.mlp.gate.weight", {64, 2048});
  ExpectTensor(list, "model.layers.1.mlp.experts.63.down_proj.weight", {2048, 1408});
  ExpectTensor(list, "model.layers.1.mlp.shared_experts.gate_proj.weight", {2816, 2048});
  ExpectTensor(list, "model.layers.5.input_layernorm.weight", {2048});
  ExpectTensor(list, "model.norm.weight", {2048});
  ExpectTensor(list, "lm_head.weight", {102400, 2048});
  EXPECT_EQ(Named(list, "model.layers.0.mlp.gate.weight"), nullptr);
}

// Shapes of architectures section 2.6.
TEST(TensorList, V2AndV2Lite) {
  const TensorList v2 = ExpectedTensors(Published("deepseek-v2"), DType::kBF16);
  const std::string attention = "model.layers.3.self_attn.";
  ExpectTensor(v2, attention + "q_a_proj.weight", {1536, 5120});
  ExpectTensor(v2, attention + "q_a_layernorm.weight", {1536});
  ExpectTensor(v2, attention + "q_b_proj.weight", {24576, 1536});
  ExpectTensor(v2, attention + "kv_a_proj_with_mqa.weight", {576, 5120});
  ExpectTensor(v2, attention + "kv_a_layernorm.weight", {512});
  ExpectTensor(v2, attention + "kv_b_proj.weight", {32768, 512});
  ExpectTensor(v2, attention + "o_proj.weight", {5120, 16384});
  ExpectTensor(v2, "model.layers.1.mlp.shared_experts.up_proj.weight", {3072, 5120});
  const TensorList lite = ExpectedTensors(Published("deepseek-v2-lite"), DType::kBF16);
  ExpectTensor(lite, attention + "q_proj.weight", {3072, 2048});
  EXPECT_EQ(Named(lite, attention + "q_a_proj.weight"), nullptr);
  EXPECT_EQ(Named(lite, "model.layers.1.mlp.gate.e_score_correction_bias"), nullptr);
}

// Types and scale shapes of architectures section 3.3.
TEST(TensorList, V3InFp8) {
  const TensorList list = ExpectedTensors(Published("deepseek-v3"), DType::kF8E4M3);
  const TensorInfo& kv_a = list.Get(Role::kAttention, Part::kKvA, 5);
  EXPECT_EQ(kv_a.name, "model.layers.5.self_attn.kv_a_proj_with_mqa.weight");
  EXPECT_EQ(kv_a.dtype, DType::kF8E4M3);
  EXPECT_TRUE(kv_a.has_scale);
  EXPECT_EQ(kv_a.scale_rows(), 5);  // 576 rows: the last block is partial
  EXPECT_EQ(kv_a.scale_cols(), 56);
  EXPECT_EQ(kv_a.data.bytes, 576u * 7168);
  EXPECT_EQ(kv_a.scale.bytes, 5u * 56 * 4);
  EXPECT_EQ(list.Get(Role::kRouted, Part::kDown, 3, 255).scale_rows(), 56);
  EXPECT_EQ(list.Get(Role::kRouted, Part::kDown, 3, 255).scale_cols(), 16);
  EXPECT_EQ(list.Get(Role::kDense, Part::kGate, 2).scale_rows(), 144);
  for (const TensorInfo& t : list.all()) {
    const bool plain = t.role == Role::kEmbedding || t.role == Role::kHead ||
                       t.role == Role::kRouter || t.shape.size() == 1;
    EXPECT_EQ(t.has_scale, !plain) << t.name;
    const DType expected = t.part == Part::kRouterBias ? DType::kF32
                           : plain                     ? DType::kBF16
                                                       : DType::kF8E4M3;
    EXPECT_EQ(t.dtype, expected) << t.name;
  }
}

TEST(TensorList, OtherTypesHoldForAllButTheRouterBias) {
  const Config config = OpenSynthetic("deepseek-v3:layers=4:experts=16").config;
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    const TensorList list = ExpectedTensors(config, dtype);
    for (const TensorInfo& t : list.all()) {
      EXPECT_EQ(t.dtype, t.part == Part::kRouterBias ? DType::kF32 : dtype) << t.name;
      EXPECT_EQ(t.data.bytes, static_cast<std::uint64_t>(t.elements()) * BytesOf(t.dtype));
      EXPECT_EQ(t.data.file, -1);
    }
  }
}

// Totals as published: 16.4, 15.7, 235.7 and 671.0 billion.
TEST(TensorList, ParameterCounts) {
  const auto billions = [](const std::string& shape) {
    return static_cast<double>(Parameters(OpenSynthetic(shape).tensors)) * 1e-9;
  };
  EXPECT_NEAR(billions("deepseek-moe-16b"), 16.4, 0.05);
  EXPECT_NEAR(billions("deepseek-v2-lite"), 15.7, 0.05);
  EXPECT_NEAR(billions("deepseek-v2"), 235.7, 0.1);
  EXPECT_NEAR(billions("deepseek-v3"), 671.0, 0.1);
}

TEST(TensorList, ActiveParameters) {
  const Model v3 = OpenSynthetic("deepseek-v3");
  EXPECT_NEAR(static_cast<double>(ActiveParameters(v3.config, v3.tensors)) * 1e-9, 36.7, 0.1);
  // By hand: head 2048 + 8 * 2048, one row of the embedding, and one dense layer.
  const Model one = OpenSynthetic("deepseek-v2-lite:layers=1:vocab=8");
  const std::int64_t attention = 3072 * 2048 + 576 * 2048 + 512 + 4096 * 512 + 2048 * 2048 + 2048;
  const std::int64_t dense = 3 * 10944 * 2048 + 2048;
  EXPECT_EQ(ActiveParameters(one.config, one.tensors), 2048 + 2048 + 8 * 2048 + attention + dense);
  // A MoE layer adds 6 of 64 experts.
  const Model two = OpenSynthetic("deepseek-v2-lite:layers=2:vocab=8");
  const std::int64_t experts = (6 + 2) * 3 * 1408 * 2048;
  EXPECT_EQ(ActiveParameters(two.config, two.tensors) - ActiveParameters(one.config, one.tensors),
            attention + 2048 + 64 * 2048 + experts);
}

TEST(TensorList, FindsEveryTensorOnce) {
  const TensorList list = OpenSynthetic("deepseek-v3:layers=5:experts=16").tensors;
  for (const TensorInfo& t : list.all()) {
    EXPECT_EQ(list.Find(t.role, t.part, t.layer, t.expert), &t) << t.name;
  }
  EXPECT_EQ(list.Find(Role::kRouted, Part::kGate, 3, 16), nullptr);
  EXPECT_EQ(list.Find(Role::kRouted, Part::kGate, 0, 0), nullptr);
  EXPECT_EQ(list.Find(Role::kEmbedding, Part::kEmbed)->name, "model.embed_tokens.weight");
  EXPECT_THROW(list.Get(Role::kDense, Part::kGate, 4), Error);
}

TEST(TensorList, FollowsTheOrderOfExecution) {
  const TensorList list = OpenSynthetic("deepseek-v3:layers=5:experts=16").tensors;
  EXPECT_EQ(list.all().front().part, Part::kEmbed);
  EXPECT_EQ(list.all().back().part, Part::kLmHead);
  int layer = 0;
  for (const TensorInfo& t : list.all()) {
    if (t.layer < 0) continue;
    EXPECT_GE(t.layer, layer) << t.name;
    layer = t.layer;
  }
}

TEST(TensorList, TiedHeadIsTheEmbedding) {
  Config config = OpenSynthetic("deepseek-v2-lite:layers=1:vocab=8").config;
  config.tie_word_embeddings = true;
  const TensorList list = ExpectedTensors(config, DType::kBF16);
  EXPECT_EQ(list.Get(Role::kHead, Part::kLmHead).name, "model.embed_tokens.weight");
}

TEST(TensorList, RoleNames) {
  EXPECT_EQ(Name(Role::kEmbedding), "embedding");
  EXPECT_EQ(Name(Role::kRouted), "routed");
  EXPECT_EQ(Name(Role::kMtp), "mtp");
}

}  // namespace
}  // namespace tandem
