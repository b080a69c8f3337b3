// ctest: unit
#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::ExpectBadData;
using test::ExpectError;
using test::TempFolder;

const fs::path kGolden = TANDEM_SOURCE_DIR "/tests/golden";
const fs::path kDemo = TANDEM_SOURCE_DIR "/model/demo";

// A tensor held in memory, for making damaged copies of good checkpoints.
struct Held {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};
using Tensors = std::map<std::string, Held>;

Tensors Load(const fs::path& model_dir) {
  const SafetensorsFile file(model_dir / "model.safetensors");
  Tensors tensors;
  for (const SafetensorsEntry& e : file.header().tensors) {
    tensors[e.name] = {e.dtype, e.shape, file.Bytes(e.name)};
  }
  return tensors;
}

void Save(const fs::path& path, const Tensors& tensors) {
  std::vector<SafetensorsTensor> views;
  for (const auto& [name, t] : tensors) views.push_back({name, t.dtype, t.shape, t.bytes});
  WriteSafetensors(path, views);
}

Held Zeros(DType dtype, std::vector<std::int64_t> shape) {
  std::size_t bytes = BytesOf(dtype);
  for (const std::int64_t dim : shape) bytes *= static_cast<std::size_t>(dim);
  return {dtype, std::move(shape), std::vector<std::byte>(bytes)};
}

// A copy of a model that a test may spoil: tensors and config, saved by Open.
struct ModelCopy {
  explicit ModelCopy(const fs::path& from)
      : tensors(Load(from)), config(json::parse(test::ReadText(from / "config.json"))) {}

  Model Open() const {
    folder.Write("config.json", config.dump());
    Save(folder / "model.safetensors", tensors);
    return OpenCheckpoint(folder.path().string());
  }

  TempFolder folder;
  Tensors tensors;
  json config;
};

std::vector<std::byte> ReadAll(const Model& model, const TensorInfo& tensor, Piece piece) {
  const Extent& extent = piece == Piece::kData ? tensor.data : tensor.scale;
  std::vector<std::byte> bytes(extent.bytes);
  model.source->Read(tensor, piece, 0, bytes);
  return bytes;
}

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

// --- shards -------------------------------------------------------------------------------------

// v3 in two shards with an index, both of which a test may spoil before Open.
struct Sharded {
  Sharded() {
    config = json::parse(test::ReadText(kGolden / "v3/config.json"));
    for (auto& [name, tensor] : Load(kGolden / "v3")) {
      const int shard = name < "model.layers.2" ? 0 : 1;
      map[name] = kNames[shard];
      shards[shard][name] = std::move(tensor);
    }
  }

  Model Open() const {
    folder.Write("config.json", config.dump());
    for (int i = 0; i < 2; ++i) {
      if (!shards[i].empty()) Save(folder / kNames[i], shards[i]);
    }
    const json index{{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
    folder.Write("model.safetensors.index.json", index.dump());
    return OpenCheckpoint(folder.path().string());
  }

  static constexpr const char* kNames[2] = {"model-1-of-2.safetensors", "model-2-of-2.safetensors"};
  TempFolder folder;
  json config;
  json map = json::object();
  Tensors shards[2];
};

TEST(Shards, OpensThemByTheIndex) {
  const Model model = Sharded().Open();
  EXPECT_EQ(model.tensors.all().size(), Load(kGolden / "v3").size());
  EXPECT_EQ(model.tensors.Get(Role::kAttention, Part::kO, 1).data.file, 0);
  EXPECT_EQ(model.tensors.Get(Role::kAttention, Part::kO, 2).data.file, 1);
}

TEST(Shards, ReadsFromTheRightOne) {
  const Sharded sharded;
  const Model model = sharded.Open();
  for (const TensorInfo& t : model.tensors.all()) {
    const Tensors& shard = sharded.shards[t.data.file];
    EXPECT_EQ(ReadAll(model, t, Piece::kData), shard.at(t.name).bytes) << t.name;
  }
}

// F28
TEST(Shards, NamesEveryMissingShard) {
  Sharded sharded;
  sharded.shards[0].clear();
  sharded.shards[1].clear();
  ExpectBadData({"missing shards", "(2)", Sharded::kNames[0], Sharded::kNames[1]},
                [&] { sharded.Open(); });
}

TEST(Shards, NamesTensorsThatAShardLacks) {
  Sharded sharded;
  sharded.shards[1].erase("model.norm.weight");
  sharded.map["model.layers.0.mlp.up_proj.weight"] = Sharded::kNames[1];  // is in the first
  ExpectBadData({"not in the shard", "(2)", "model.norm.weight (model-2-of-2.safetensors)",
                 "model.layers.0.mlp.up_proj.weight (model-2-of-2.safetensors)"},
                [&] { sharded.Open(); });
}

TEST(Shards, NamesTensorsThatAreInTwo) {
  Sharded sharded;
  sharded.shards[0]["model.norm.weight"] = sharded.shards[1]["model.norm.weight"];
  ExpectBadData(
      {"tensors in two shards (1)", "model.norm.weight", Sharded::kNames[0], Sharded::kNames[1]},
      [&] { sharded.Open(); });
}

// F27
TEST(Shards, NeverLeaveTheFolder) {
  const TempFolder outside;
  for (const std::string& name :
       {std::string("../x.safetensors"), std::string("/etc/passwd"), std::string("a/b"),
        std::string("a\\b"), std::string("a//b"), std::string("a\0b", 3), std::string("file:x"),
        std::string("..")}) {
    Sharded sharded;
    sharded.map["model.norm.weight"] = name;
    ExpectBadData({"weight_map.model.norm.weight", "name of a file in the model folder"},
                  [&] { sharded.Open(); });
  }
  Sharded sharded;
  Tensors second;
  sharded.shards[1].swap(second);
  Save(outside / "x", second);
  fs::create_symlink(outside / "x", sharded.folder / Sharded::kNames[1]);
  ExpectBadData({Sharded::kNames[1], "outside of the model folder"}, [&] { sharded.Open(); });
}

TEST(Shards, OpensAHuggingFaceCache) {
  const TempFolder cache;
  const fs::path snapshot = cache / "models--a--b/snapshots/0123";
  fs::create_directories(snapshot);
  fs::create_directories(cache / "models--a--b/blobs");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(kGolden / "v3" / name, cache / "models--a--b/blobs" / name);
    fs::create_symlink(fs::path("../../blobs") / name, snapshot / name);
  }
  const Model model = OpenCheckpoint(snapshot.string());
  EXPECT_EQ(model.name, "0123");
  EXPECT_GT(model.tensors.all().size(), 0u);
}

TEST(Shards, RefusesBrokenIndexes) {
  const Sharded sharded;
  sharded.Open();
  const auto expect = [&](std::string_view index, std::initializer_list<std::string_view> words) {
    sharded.folder.Write("model.safetensors.index.json", index);
    ExpectBadData({"model.safetensors.index.json"},
                  [&] { OpenCheckpoint(sharded.folder.path().string()); });
    ExpectBadData(words, [&] { OpenCheckpoint(sharded.folder.path().string()); });
  };
  expect("{", {"not valid JSON"});
  expect("{}", {"no weight_map"});
  expect(R"({"weight_map": {}})", {"weight_map is empty"});
  expect(R"({"weight_map": []})", {"weight_map", "expected an object"});
  expect(R"({"weight_map": {"a": 1}})", {"weight_map.a", "found 1"});
  expect(R"({"weight_map": {"a": "x", "a": "y"}})", {"weight_map.a", "given twice"});
}

// --- folders without safetensors ----------------------------------------------------------------

// F30, F31
TEST(Folders, SayWhatToDoWithoutWeights) {
  const TempFolder folder;
  folder.Write("config.json", test::ReadText(kGolden / "v3/config.json"));
  const auto open = [&] { OpenCheckpoint(folder.path().string()); };
  ExpectBadData({"no weights", "model.safetensors.index.json"}, open);
  folder.Write("pytorch_model-00001-of-00002.bin", "\x80\x02");
  ExpectBadData({"pickle", "pytorch_model-00001-of-00002.bin", "never opened", "convert"}, open);
  folder.Write("model-00001-of-00002.safetensors", "");
  ExpectBadData({"model-00001-of-00002.safetensors", "index"}, open);
  folder.Write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  ExpectBadData({"model.safetensors", "git lfs pull"}, open);
}

TEST(Folders, PickleBesideSafetensorsIsNotTouched) {
  const ModelCopy copy(kGolden / "v3");
  copy.folder.Write("pytorch_model.bin", "\x80\x02");
  const Model model = copy.Open();
  EXPECT_GT(model.tensors.all().size(), 0u);
}

}  // namespace
}  // namespace tandem
