// ctest: unit
#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/checkpoint_copy.h"
#include "tests/support/expect_error.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::ExpectBadData;
using test::ExpectError;
using test::kDemo;
using test::kGolden;
using test::Load;
using test::ModelCopy;
using test::ReadAll;
using test::Tensors;
using test::Zeros;

// --- good checkpoints ---------------------------------------------------------------------------

TEST(Checkpoint, OpensEveryGolden) {
  for (const char* name : {"deepseek", "v2", "v2-lite", "v3"}) {
    const Model model = OpenCheckpoint((kGolden / name).string());
    EXPECT_EQ(model.name, name);
    const Tensors tensors = Load(kGolden / name);
    EXPECT_EQ(model.tensors.all().size(), tensors.size());
    for (const TensorInfo& t : model.tensors.all()) {
      EXPECT_EQ(ReadAll(model, t, Piece::kData), tensors.at(t.name).bytes) << t.name;
    }
  }
}

TEST(Checkpoint, DemoModelHasScalesAndMtp) {
  const Model model = OpenCheckpoint(kDemo.string() + "/");
  EXPECT_EQ(model.name, "demo");
  const Tensors tensors = Load(kDemo);
  std::size_t found = 0;
  for (const TensorInfo& t : model.tensors.all()) {
    EXPECT_EQ(ReadAll(model, t, Piece::kData), tensors.at(t.name).bytes) << t.name;
    EXPECT_EQ(t.has_scale, t.dtype == DType::kF8E4M3) << t.name;
    if (t.has_scale) {
      EXPECT_EQ(ReadAll(model, t, Piece::kScale), tensors.at(t.name + "_scale_inv").bytes);
    }
    EXPECT_EQ(t.role == Role::kMtp, t.layer == 5) << t.name;
    found += t.has_scale ? 2 : 1;
  }
  EXPECT_EQ(found, tensors.size());
  EXPECT_GT(model.tensors.Elements(Role::kMtp), 0);
}

TEST(Checkpoint, ReadsWindows) {
  const Model model = OpenCheckpoint(kDemo.string());
  const TensorInfo& t = model.tensors.Get(Role::kRouted, Part::kGate, 1, 3);
  const std::vector<std::byte> whole = ReadAll(model, t, Piece::kData);
  std::vector<std::byte> part(1000);
  model.source->Read(t, Piece::kData, 77, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 77));
  EXPECT_THROW(model.source->Read(t, Piece::kData, t.data.bytes - 999, part), Error);
}

TEST(Checkpoint, ReadsFromSeveralThreads) {
  const Model model = OpenCheckpoint(kDemo.string());
  const Tensors tensors = Load(kDemo);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const TensorInfo& t : model.tensors.all()) {
        wrong += ReadAll(model, t, Piece::kData) != tensors.at(t.name).bytes;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Checkpoint, IgnoresTensorsThatNobodyCallsFor) {
  ModelCopy copy(kGolden / "v2-lite");
  const std::size_t expected = copy.tensors.size();
  copy.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Zeros(DType::kF32, {8});
  copy.tensors["model.layers.9.mlp.odd"] = Zeros(DType::kI64, {2});
  const Model model = copy.Open();
  EXPECT_EQ(model.tensors.all().size(), expected);
}

TEST(Checkpoint, TiedHeadReadsTheEmbedding) {
  ModelCopy copy(kGolden / "v2-lite");
  copy.config["tie_word_embeddings"] = true;
  copy.tensors.erase("lm_head.weight");
  const Model model = copy.Open();
  const TensorInfo& head = model.tensors.Get(Role::kHead, Part::kLmHead);
  EXPECT_EQ(ReadAll(model, head, Piece::kData), copy.tensors.at("model.embed_tokens.weight").bytes);
}

TEST(Checkpoint, NormsMayHaveAnotherType) {
  ModelCopy copy(kGolden / "v3");
  copy.tensors["model.norm.weight"] = Zeros(DType::kF32, {128});
  copy.tensors["model.layers.1.mlp.gate.weight"] = Zeros(DType::kF16, {16, 128});
  copy.tensors["model.layers.1.mlp.gate.e_score_correction_bias"] = Zeros(DType::kBF16, {16});
  const Model model = copy.Open();
  EXPECT_EQ(model.tensors.Get(Role::kHead, Part::kFinalNorm).dtype, DType::kF32);
  EXPECT_EQ(model.tensors.Get(Role::kRouter, Part::kRouterWeight, 1).dtype, DType::kF16);
  EXPECT_EQ(model.tensors.Get(Role::kRouter, Part::kRouterBias, 1).dtype, DType::kBF16);
}

// --- tensors that do not fit the config ---------------------------------------------------------

TEST(Checkpoint, NamesEveryMissingTensor) {
  ModelCopy copy(kGolden / "v3");
  copy.tensors.erase("model.norm.weight");
  copy.tensors.erase("model.layers.2.self_attn.o_proj.weight");
  ExpectBadData({"missing tensors (2)", "model.norm.weight", "layers.2.self_attn.o_proj.weight"},
                [&] { copy.Open(); });
}

TEST(Checkpoint, CutsLongListsAndCounts) {
  ModelCopy copy(kGolden / "v3");
  copy.config["num_hidden_layers"] = 6;
  // In each of 2 layers: 7 tensors of MLA, 2 norms, 2 of the router and 3 for each of 17 MLPs.
  ExpectBadData({"missing tensors (124)", "model.layers.4.input_layernorm.weight", "104 more"},
                [&] { copy.Open(); });
}

// F17
TEST(Checkpoint, NamesWrongShapes) {
  ModelCopy copy(kGolden / "v3");
  copy.tensors["model.layers.1.mlp.gate.weight"] = Zeros(DType::kBF16, {8, 128});
  copy.tensors["model.norm.weight"] = Zeros(DType::kBF16, {128, 1});
  ExpectBadData({"wrong shape (2)",
                 "model.layers.1.mlp.gate.weight: expected [16, 128], found "
                 "[8, 128]",
                 "model.norm.weight: expected [128], found [128, 1]"},
                [&] { copy.Open(); });
}

TEST(Checkpoint, NamesTypesThatCannotBeUsed) {
  ModelCopy copy(kGolden / "v3");
  copy.tensors["lm_head.weight"] = Zeros(DType::kI8, {384, 128});
  copy.tensors["model.norm.weight"] = Zeros(DType::kF8E4M3, {128});
  copy.tensors["model.layers.0.mlp.up_proj.weight"] = Zeros(DType::kF64, {256, 128});
  ExpectBadData({"cannot be used (3)", "lm_head.weight: expected F32, BF16 or F16, found I8",
                 "model.norm.weight: expected F32, BF16 or F16, found F8_E4M3",
                 "up_proj.weight: expected F32, BF16, F16 or F8_E4M3, found F64"},
                [&] { copy.Open(); });
}

// F25: a type nobody knows is refused where the tensor is needed.
TEST(Checkpoint, NamesUnknownTypes) {
  ModelCopy copy(kGolden / "v3");
  copy.Open();
  const fs::path path = copy.folder / "model.safetensors";
  std::string text = test::ReadText(path);
  const std::string before = R"("model.norm.weight":{"dtype":"BF16")";
  const std::size_t at = text.find(before);
  ASSERT_NE(at, std::string::npos);
  text.replace(at + before.size() - 5, 4, "NEW9");
  copy.folder.Write("model.safetensors", text);
  ExpectBadData({"model.norm.weight", "found NEW9"},
                [&] { OpenCheckpoint(copy.folder.path().string()); });
}

// F29
TEST(Checkpoint, RefusesFp8WithoutScales) {
  ModelCopy copy(kDemo);
  const std::string a = "model.layers.1.mlp.experts.7.up_proj.weight";
  const std::string b = "model.layers.1.self_attn.o_proj.weight";
  const std::string c = "model.layers.2.self_attn.o_proj.weight";
  copy.tensors.erase(a + "_scale_inv");
  copy.tensors[b + "_scale_inv"] = Zeros(DType::kF32, {2, 3});
  copy.tensors[c + "_scale_inv"] = Zeros(DType::kBF16, {2, 2});
  ExpectBadData({"FP8 tensors without usable scales (3)", a + "_scale_inv is missing",
                 b + "_scale_inv: expected F32 [2, 2], found F32 [2, 3]",
                 c + "_scale_inv: expected F32 [2, 2], found BF16 [2, 2]"},
                [&] { copy.Open(); });
}

// --- damaged weights ----------------------------------------------------------------------------

TEST(FindFp8Nan, FindsItAnywhere) {
  for (const std::size_t size : {1u, 15u, 16u, 17u, 4095u, 4096u, 4097u, 10000u}) {
    std::vector<std::byte> codes(size, std::byte{0x7E});
    EXPECT_EQ(FindFp8Nan(codes), size);
    for (const std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      for (const std::byte nan : {std::byte{0x7F}, std::byte{0xFF}}) {
        codes[at] = nan;
        EXPECT_EQ(FindFp8Nan(codes), at) << "of " << size;
        codes[at] = std::byte{0xFE};
      }
    }
  }
  EXPECT_EQ(FindFp8Nan({}), 0u);
}

TEST(Checkpoint, RefusesFp8WeightsThatAreNaN) {
  ModelCopy copy(kDemo);
  const std::string name = "model.layers.0.mlp.gate_proj.weight";  // [512, 256]
  copy.tensors[name].bytes[300 * 256 + 17] = std::byte{0xFF};
  const Model model = copy.Open();
  const TensorInfo& t = model.tensors.Get(Role::kDense, Part::kGate, 0);
  ExpectBadData({"model.safetensors", name, "[300, 17]", "NaN"},
                [&] { ReadAll(model, t, Piece::kData); });
  std::vector<std::byte> before(300 * 256);
  model.source->Read(t, Piece::kData, 0, before);  // does not touch the damage
}

TEST(Checkpoint, RefusesScalesThatAreNoNumbers) {
  ModelCopy copy(kDemo);
  const std::string name = "model.layers.0.mlp.gate_proj.weight";
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(copy.tensors[name + "_scale_inv"].bytes.data() + 8, &nan, sizeof(nan));
  const Model model = copy.Open();
  const TensorInfo& t = model.tensors.Get(Role::kDense, Part::kGate, 0);
  ExpectBadData({name, "scale 2", "nan"}, [&] { ReadAll(model, t, Piece::kScale); });
}

// F32: nothing is mapped; a file that shrinks is an error of that read.
TEST(Checkpoint, SurvivesAFileThatShrinks) {
  ModelCopy copy(kGolden / "v3");
  const Model model = copy.Open();
  const TensorInfo& t = model.tensors.Get(Role::kHead, Part::kFinalNorm);
  fs::resize_file(copy.folder / "model.safetensors", t.data.offset + 10);
  ExpectError<SystemError>(ExitCode::kIo, {"model.safetensors", "ends at offset"},
                           [&] { ReadAll(model, t, Piece::kData); });
}

}  // namespace
}  // namespace tandem
