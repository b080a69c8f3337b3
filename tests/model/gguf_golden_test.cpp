// ctest: unit
// A file that another program wrote: tests/golden/make_gguf_golden.py, with the PyPI package gguf.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "memory/blocks.h"
#include "model/gguf.h"
#include "model/open_model.h"

namespace tandem::test {
namespace {

const std::string kFile = TANDEM_SOURCE_DIR "/tests/golden/tiny.gguf";

// Sums of the values that the package decodes, as its script prints them.
constexpr std::pair<const char*, double> kSums[] = {
    {"token_embd.weight", -7.28684902191},
    {"blk.0.attn_norm.weight", -0.541790690317},
    {"blk.0.attn_q.weight", -5.84111976624},
    {"blk.0.attn_kv_a_mqa.weight", 2.86585426331},
    {"blk.0.attn_kv_a_norm.weight", 0.382087623228},
    {"blk.0.attn_k_b.weight", 2.25855922699},
    {"blk.0.attn_v_b.weight", -3.50914478302},
    {"blk.0.attn_output.weight", -5.89667320251},
    {"blk.0.ffn_norm.weight", 0.917713311384},
    {"blk.0.ffn_gate.weight", 6.09009456635},
    {"blk.0.ffn_up.weight", -17.3579092026},
    {"blk.0.ffn_down.weight", -4.45829963684},
    {"blk.1.attn_norm.weight", 0.924278446779},
    {"blk.1.attn_q.weight", 4.3239736557},
    {"blk.1.attn_kv_a_mqa.weight", 1.43064403534},
    {"blk.1.attn_kv_a_norm.weight", 0.422646398598},
    {"blk.1.attn_k_b.weight", 5.39765644073},
    {"blk.1.attn_v_b.weight", 0.923037528992},
    {"blk.1.attn_output.weight", -7.06077003479},
    {"blk.1.ffn_norm.weight", -0.616362800312},
    {"blk.1.ffn_gate_inp.weight", 0.933701191214},
    {"blk.1.ffn_gate_exps.weight", 14.8588590622},
    {"blk.1.ffn_gate_shexp.weight", 2.79733371735},
    {"blk.1.ffn_up_exps.weight", 4.9016456604},
    {"blk.1.ffn_up_shexp.weight", -9.97849082947},
    {"blk.1.ffn_down_exps.weight", 0.814945697784},
    {"blk.1.ffn_down_shexp.weight", -0.729598045349},
    {"output_norm.weight", 0.402159575373},
    {"output.weight", -2.16555213928},
};

TEST(GgufGolden, EveryTensorHasTheValuesThatThePackageDecodes) {
  const Gguf gguf(kFile);
  ASSERT_EQ(gguf.tensors().size(), std::size(kSums));
  for (const auto& [name, sum] : kSums) {
    const GgufTensor* tensor = gguf.Find(name);
    ASSERT_NE(tensor, nullptr) << name;
    std::vector<std::byte> bytes(tensor->bytes);
    gguf.files()[0].PReadExact(tensor->offset, bytes);
    std::int64_t count = 1;
    for (const std::int64_t size : tensor->ne) count *= size;
    std::vector<float> values(static_cast<std::size_t>(count));
    if (tensor->dtype == DType::kF32) {
      std::memcpy(values.data(), bytes.data(), bytes.size());
    } else {
      ASSERT_EQ(tensor->dtype, DType::kQ8_0) << name;
      DecodeBlocks(DType::kQ8_0, bytes.data(), values);
    }
    // The order of 10^4 additions in double, of values below 1.
    EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0), sum, 1e-9) << name;
  }
}

TEST(GgufGolden, ValuesOfAllTypes) {
  const Gguf gguf(kFile);
  const GgufMetadata& m = gguf.metadata();
  const IntRange any{INT64_MIN, INT64_MAX};
  EXPECT_EQ(m.Int("test.uint8", any), 200);
  EXPECT_EQ(m.Int("test.int8", any), -3);
  EXPECT_EQ(m.Int("test.uint16", any), 60000);
  EXPECT_EQ(m.Int("test.int16", any), -300);
  EXPECT_EQ(m.Int("test.uint64", any), std::int64_t{1} << 40);
  EXPECT_EQ(m.Int("test.int64", any), -(std::int64_t{1} << 40));
  EXPECT_EQ(m.Real("test.float64", {0, 1}), 0.1);
  EXPECT_EQ(m.Strings("test.strings"), (std::vector<std::string_view>{"one", "", "drei"}));
  EXPECT_EQ(m.Find("test.floats")->TypeName(), "array of f32");
}

TEST(GgufGolden, OpensAsAModel) {
  const Model model = OpenModel(kFile);
  EXPECT_EQ(model.name, "Tiny");
  EXPECT_EQ(model.config.model_type, "deepseek_v2");
  EXPECT_EQ(model.config.n_routed_experts, 4);
  EXPECT_EQ(model.config.rope_scaling->mscale_all_dim, 0.707);
  EXPECT_EQ(model.tensors.Get(Role::kRouted, Part::kDown, 1, 3).shape,
            (std::vector<std::int64_t>{64, 32}));
  EXPECT_EQ(model.tensors.Get(Role::kAttention, Part::kKB, 1).dtype, DType::kQ8_0);
}

}  // namespace
}  // namespace tandem::test
