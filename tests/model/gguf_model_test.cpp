// ctest: unit
// A model in GGUF offers the tensors that the same model has as a checkpoint.
#include "tests/support/gguf_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "memory/blocks.h"
#include "model/gguf_tensors.h"
#include "model/open_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

const std::string kGolden = TANDEM_SOURCE_DIR "/tests/golden/";

Model Golden(const std::string& name) { return OpenCheckpoint(kGolden + name); }

std::vector<std::byte> ReadAll(const Model& model, const TensorInfo& t) {
  std::vector<std::byte> bytes(t.data.bytes);
  model.source->Read(t, Piece::kData, 0, bytes);
  return bytes;
}

std::vector<float> Floats(const Model& model, const TensorInfo& t) {
  const std::vector<std::byte> bytes = ReadAll(model, t);
  std::vector<float> values(static_cast<std::size_t>(t.elements()));
  if (IsBlockFormat(t.dtype)) {
    DecodeBlocks(t.dtype, bytes.data(), values);
    return values;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t half = 0;
    if (t.dtype == DType::kF32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
      continue;
    }
    std::memcpy(&half, bytes.data() + 2 * i, 2);
    values[i] = t.dtype == DType::kF16 ? F16ToF32(half) : Bf16ToF32(half);
  }
  return values;
}

class GgufModel : public testing::Test {
 protected:
  Model Write(const GgufBuilder& gguf) {
    return OpenModel(folder_.Write("model.gguf", gguf.Build()).string());
  }
  void ExpectRefused(std::initializer_list<std::string_view> words, const GgufBuilder& gguf) {
    ExpectBadData(words, [&] { Write(gguf); });
    ExpectBadData({"model.gguf"}, [&] { Write(gguf); });
  }

  TempFolder folder_;
};

// All but kv_b, which has another form there.
void ExpectSameTensors(const Model& a, const Model& b) {
  for (const TensorInfo& t : a.tensors.all()) {
    if (t.part == Part::kKvB || t.role == Role::kMtp) continue;
    const TensorInfo* other = b.tensors.Find(t.role, t.part, t.layer, t.expert);
    ASSERT_NE(other, nullptr) << t.name;
    EXPECT_EQ(t.shape, other->shape) << t.name;
    EXPECT_EQ(Floats(a, t), Floats(b, *other)) << t.name << ", " << other->name;
  }
}

// k_b[h R + r, i] is kv_b[h (nope + v) + i, r], v_b[h v + i, r] is kv_b[h (nope + v) + nope + i,
// r].
void ExpectSplitKvB(const Model& whole, const Model& split) {
  const Config& c = whole.config;
  const std::int64_t nope = c.qk_nope_head_dim;
  const std::int64_t v = c.v_head_dim;
  const std::int64_t R = c.kv_lora_rank;
  for (int layer = 0; layer < c.num_hidden_layers; ++layer) {
    const auto kv_b = Floats(whole, whole.tensors.Get(Role::kAttention, Part::kKvB, layer));
    const TensorInfo& k = split.tensors.Get(Role::kAttention, Part::kKB, layer);
    const TensorInfo& v_info = split.tensors.Get(Role::kAttention, Part::kVB, layer);
    EXPECT_EQ(k.shape, (std::vector<std::int64_t>{c.num_attention_heads * R, nope}));
    EXPECT_EQ(v_info.shape, (std::vector<std::int64_t>{c.num_attention_heads * v, R}));
    const auto k_b = Floats(split, k);
    const auto v_b = Floats(split, v_info);
    for (std::int64_t h = 0; h < c.num_attention_heads; ++h) {
      for (std::int64_t r = 0; r < R; ++r) {
        const auto at = [&](std::int64_t row) { return kv_b[(h * (nope + v) + row) * R + r]; };
        for (std::int64_t i = 0; i < nope; ++i) ASSERT_EQ(k_b[(h * R + r) * nope + i], at(i));
        for (std::int64_t i = 0; i < v; ++i) ASSERT_EQ(v_b[(h * v + i) * R + r], at(nope + i));
      }
    }
  }
}

TEST_F(GgufModel, HasTheTensorsOfTheCheckpoint) {
  for (const char* name : {"v2-lite", "v2", "v3"}) {
    SCOPED_TRACE(name);
    const Model checkpoint = Golden(name);
    const Model gguf = Write(GgufOf(checkpoint));
    EXPECT_EQ(gguf.name, "A test model");
    EXPECT_EQ(gguf.config.model_type, checkpoint.config.model_type);
    EXPECT_EQ(gguf.config.topk_method, checkpoint.config.topk_method);
    EXPECT_EQ(gguf.config.softmax_scale(), checkpoint.config.softmax_scale());
    ExpectSameTensors(checkpoint, gguf);
    ExpectSplitKvB(checkpoint, gguf);
  }
}

// The rows of q and k come back in the order that they had before the conversion.
TEST_F(GgufModel, RowsOfTheFirstFamilyAreInTheModelsOrder) {
  const Model checkpoint = Golden("deepseek");
  for (const DType format : {DType::kF32, DType::kQ8_0}) {
    const Model gguf = Write(GgufOf(checkpoint, {.format = format}));
    if (format == DType::kF32) ExpectSameTensors(checkpoint, gguf);
    const TensorInfo& q = gguf.tensors.Get(Role::kAttention, Part::kQ, 1);
    const std::vector<std::byte> whole = ReadAll(gguf, q);
    for (const std::uint64_t offset : {0u, 1u, 1000u, 4321u}) {  // in the middle of rows
      for (const std::size_t bytes : {1u, 700u, 5000u}) {
        std::vector<std::byte> window(bytes);
        gguf.source->Read(q, Piece::kData, offset, window);
        EXPECT_EQ(0, std::memcmp(window.data(), whole.data() + offset, bytes));
      }
    }
  }
}

TEST_F(GgufModel, JointKvBOfOldFiles) {
  const Model checkpoint = Golden("v2");
  const Model gguf = Write(GgufOf(checkpoint, {.joint_kv_b = true}));
  ExpectSameTensors(checkpoint, gguf);
  for (int layer = 0; layer < gguf.config.num_hidden_layers; ++layer) {
    const auto get = [&](const Model& m) {
      return Floats(m, m.tensors.Get(Role::kAttention, Part::kKvB, layer));
    };
    EXPECT_EQ(get(checkpoint), get(gguf));
    EXPECT_EQ(gguf.tensors.Find(Role::kAttention, Part::kKB, layer), nullptr);
  }
}

// In a block format the joint matrix is offered as F16, whatever the window that is read.
TEST_F(GgufModel, JointKvBInBlocksIsDecoded) {
  Model checkpoint = OpenCheckpoint(TANDEM_SOURCE_DIR "/model/demo");  // rank 64: blocks of 32
  GgufBuilder builder = GgufOf(checkpoint, {.joint_kv_b = true, .format = DType::kQ8_0});
  const std::string blocks = builder.At("blk.1.attn_kv_b.weight").data;
  const Model gguf = Write(builder);
  const TensorInfo& t = gguf.tensors.Get(Role::kAttention, Part::kKvB, 1);
  EXPECT_EQ(t.dtype, DType::kF16);
  EXPECT_EQ(t.data.bytes, 2 * static_cast<std::uint64_t>(t.elements()));
  std::vector<float> expected(static_cast<std::size_t>(t.elements()));
  DecodeBlocks(DType::kQ8_0, reinterpret_cast<const std::byte*>(blocks.data()), expected);
  for (float& value : expected) value = F16ToF32(F32ToF16(value));
  EXPECT_EQ(Floats(gguf, t), expected);
  const std::vector<std::byte> whole = ReadAll(gguf, t);
  for (const std::uint64_t offset : {0u, 1u, 63u, 32767u, 32768u, 40001u}) {
    for (const std::size_t bytes : {1u, 2u, 777u, 20000u}) {
      std::vector<std::byte> window(bytes);
      gguf.source->Read(t, Piece::kData, offset, window);
      EXPECT_EQ(0, std::memcmp(window.data(), whole.data() + offset, bytes));
    }
  }
}

// Values that F16 cannot hold, or holds below its normal range only.
TEST_F(GgufModel, DecodedValuesRoundAsF16Does) {
  const Model checkpoint = OpenCheckpoint(TANDEM_SOURCE_DIR "/model/demo");
  GgufBuilder builder = GgufOf(checkpoint, {.joint_kv_b = true, .format = DType::kQ8_0});
  std::string& blocks = builder.At("blk.0.attn_kv_b.weight").data;
  for (std::size_t block = 0; block < blocks.size() / 34; ++block) {
    const auto scale = static_cast<std::uint16_t>(block * 41 % 0x7C00);  // all magnitudes
    std::memcpy(blocks.data() + 34 * block, &scale, 2);
  }
  const std::string stored = blocks;
  const Model gguf = Write(builder);
  const TensorInfo& t = gguf.tensors.Get(Role::kAttention, Part::kKvB, 0);
  std::vector<float> exact(static_cast<std::size_t>(t.elements()));
  DecodeBlocks(DType::kQ8_0, reinterpret_cast<const std::byte*>(stored.data()), exact);
  const std::vector<std::byte> read = ReadAll(gguf, t);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, read.data() + 2 * i, 2);
    ASSERT_EQ(half, F32ToF16(exact[i])) << exact[i];
  }
}

TEST_F(GgufModel, ExpertsAreSlicesOfOneTensor) {
  const Model checkpoint = OpenCheckpoint(TANDEM_SOURCE_DIR "/model/demo");
  const Model gguf = Write(GgufOf(checkpoint, {.format = DType::kQ8_0}));
  const TensorInfo& second = gguf.tensors.Get(Role::kRouted, Part::kUp, 1, 2);
  EXPECT_EQ(second.name, "blk.1.ffn_up_exps.weight[2]");
  EXPECT_EQ(second.dtype, DType::kQ8_0);
  EXPECT_EQ(second.data.bytes, DataBytes(DType::kQ8_0, second.elements()));
  const TensorInfo& first = gguf.tensors.Get(Role::kRouted, Part::kUp, 1, 0);
  EXPECT_EQ(second.data.offset, first.data.offset + 2 * first.data.bytes);
}

// Newer conversions may join gate and up; older ones leave the dimension of heads out.
TEST_F(GgufModel, OtherFormsOfTheSameTensors) {
  const Model checkpoint = Golden("v3");
  GgufBuilder builder = GgufOf(checkpoint);
  const Config& c = checkpoint.config;
  const std::int64_t matrix = c.hidden_size * c.moe_intermediate_size * 4;
  for (std::int64_t layer = 1; layer < c.num_hidden_layers; ++layer) {
    const std::string blk = fmt::format("blk.{}.", layer);
    const std::string gate = builder.At(blk + "ffn_gate_exps.weight").data;
    const std::string up = builder.At(blk + "ffn_up_exps.weight").data;
    std::string both;
    for (std::int64_t e = 0; e < c.n_routed_experts; ++e) {
      both += gate.substr(e * matrix, matrix) + up.substr(e * matrix, matrix);
    }
    builder.WithoutTensor(blk + "ffn_gate_exps.weight").WithoutTensor(blk + "ffn_up_exps.weight");
    builder.Add({blk + "ffn_gate_up_exps.weight",
                 {c.hidden_size, 2 * c.moe_intermediate_size, c.n_routed_experts},
                 0,
                 both,
                 {},
                 {}});
    auto& k_b = builder.At(blk + "attn_k_b.weight");
    k_b.ne = {k_b.ne[0], k_b.ne[1] * k_b.ne[2]};
  }
  const Model gguf = Write(builder);
  ExpectSameTensors(checkpoint, gguf);
  ExpectSplitKvB(checkpoint, gguf);
}

TEST_F(GgufModel, TiedHeadAndMtp) {
  const Model checkpoint = Golden("v3");
  GgufBuilder builder = GgufOf(checkpoint);
  builder.WithoutTensor("output.weight");
  const auto blocks = static_cast<std::uint32_t>(checkpoint.config.num_hidden_layers);
  builder.Without("deepseek2.block_count").U32("deepseek2.block_count", blocks + 1);
  builder.U32("deepseek2.nextn_predict_layers", 1);
  const std::string mtp = fmt::format("blk.{}.nextn.eh_proj.weight", blocks);
  builder.Add({mtp, {256, 2}, 16, std::string(132, '\0'), {}, {}});  // IQ2_XXS: not loaded
  const Model gguf = Write(builder);
  EXPECT_EQ(Floats(gguf, gguf.tensors.Get(Role::kHead, Part::kLmHead)),
            Floats(gguf, gguf.tensors.Get(Role::kEmbedding, Part::kEmbed)));
  const TensorInfo& last = gguf.tensors.all().back();
  EXPECT_EQ(last.name, mtp);
  EXPECT_EQ(last.role, Role::kMtp);
  EXPECT_EQ(last.bytes(), 132u);
  EXPECT_EQ(last.shape, (std::vector<std::int64_t>{2, 256}));
}

TEST_F(GgufModel, F17ShapesThatDisagree) {
  const Model checkpoint = Golden("v3");
  const auto with = [&](const char* key, std::uint32_t value) {
    GgufBuilder builder = GgufOf(checkpoint);
    return builder.Without(key).U32(key, value);
  };
  ExpectRefused({"blk.1.ffn_gate_exps.weight: expected {128, 32, 20}, found {128, 32, 16}"},
                with("deepseek2.expert_count", 20));
  ExpectRefused({"blk.0.attn_k_b.weight: expected {32, 48, 4}, found {32, 48, 8}"},
                with("deepseek2.attention.head_count", 4));
  ExpectRefused({"blk.0.attn_kv_a_mqa.weight", "blk.0.attn_v_b.weight"},
                with("deepseek2.attention.kv_lora_rank", 32));
  ExpectRefused({"tensors of the wrong shape (1): token_embd.weight"}, [&] {
    GgufBuilder builder = GgufOf(checkpoint);
    builder.At("token_embd.weight").ne = {384, 128};
    return builder;
  }());
}

TEST_F(GgufModel, F10EmptyTensorsAreRefusedWhereTheyAreNeeded) {
  GgufBuilder builder = GgufOf(Golden("v3"));
  builder.At("blk.0.attn_q_a.weight").ne = {128, 0};
  builder.At("blk.0.attn_q_a.weight").data = "";
  ExpectRefused({"blk.0.attn_q_a.weight", "{128, 0}"}, builder);
}

TEST_F(GgufModel, NamesEveryTensorThatIsMissing) {
  GgufBuilder builder = GgufOf(Golden("v3"));
  builder.WithoutTensor("blk.2.ffn_up_exps.weight").WithoutTensor("blk.1.exp_probs_b.bias");
  ExpectRefused({"missing tensors (2)", "blk.1.exp_probs_b.bias", "blk.2.ffn_up_exps.weight"},
                builder);
}

TEST_F(GgufModel, F13TypesThatDoNotLoad) {
  GgufBuilder builder = GgufOf(Golden("v3"));
  auto& experts = builder.At("blk.1.ffn_down_exps.weight");
  experts.type = 27;  // I64
  experts.data.resize(experts.data.size() * 2);
  auto& norm = builder.At("blk.0.attn_norm.weight");
  norm.type = 8;  // Q8_0
  norm.data.resize(136);
  ExpectRefused({"cannot be used", "F32, F16", "IQ4_XS", "(2)", "blk.1.ffn_down_exps.weight: I64",
                 "blk.0.attn_norm.weight: Q8_0"},
                builder);
}

TEST_F(GgufModel, SplitFilesAreOneModel) {
  const Model checkpoint = Golden("v2-lite");
  GgufBuilder whole = GgufOf(checkpoint);
  std::vector<GgufBuilder> parts(3);
  for (std::uint16_t i = 0; i < 3; ++i) {
    GgufBuilder& part = parts[i];
    part.Pair("split.no", GgufBuilder::kU16, GgufBuilder::Bytes(i));
    part.Pair("split.count", GgufBuilder::kU16, GgufBuilder::Bytes<std::uint16_t>(3));
    const auto n = static_cast<std::int32_t>(whole.tensors.size());
    part.Pair("split.tensors.count", GgufBuilder::kI32, GgufBuilder::Bytes(n));
  }
  parts[0].pairs.insert(parts[0].pairs.end(), whole.pairs.begin(), whole.pairs.end());
  for (std::size_t i = 0; i < whole.tensors.size(); ++i) {
    parts[3 * i / whole.tensors.size()].Add(whole.tensors[i]);
  }
  for (int i = 0; i < 3; ++i) {
    folder_.Write(fmt::format("m-{:05}-of-00003.gguf", i + 1),
                  parts[static_cast<std::size_t>(i)].Build());
  }
  const Model gguf = OpenModel((folder_ / "m-00002-of-00003.gguf").string());
  ExpectSameTensors(checkpoint, gguf);
}

TEST_F(GgufModel, NameIsTheFilesWhereMetadataHasNone) {
  GgufBuilder builder = GgufOf(Golden("v2-lite"));
  builder.Without("general.name");
  EXPECT_EQ(Write(builder).name, "model");
  builder.String("general.name", "two\nlines");
  EXPECT_EQ(Write(builder).name, "model");
}

TEST_F(GgufModel, OpenModelSaysWhatAFolderOfGgufNeeds) {
  Write(GgufOf(Golden("v2-lite")));
  ExpectError<SystemError>(ExitCode::kMissingFile, {"no config.json", "model.gguf"},
                           [&] { OpenModel(folder_.path().string()); });
  ExpectError<SystemError>(ExitCode::kMissingFile, {"no such"},
                           [&] { OpenModel((folder_ / "nowhere").string()); });
}

TEST_F(GgufModel, SurvivesAFileThatShrinks) {
  const Model gguf = Write(GgufOf(Golden("v2-lite")));
  std::filesystem::resize_file(folder_ / "model.gguf", 4096);
  const TensorInfo& head = gguf.tensors.Get(Role::kHead, Part::kLmHead);
  std::vector<std::byte> bytes(head.data.bytes);
  ExpectError<SystemError>(ExitCode::kIo, {"model.gguf", "offset"},
                           [&] { gguf.source->Read(head, Piece::kData, 0, bytes); });
}

}  // namespace
}  // namespace tandem::test
