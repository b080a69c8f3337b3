// ctest: unit
// Checkpoints in several files, and folders that have none.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/checkpoint.h"
#include "tests/support/checkpoint_copy.h"
#include "tests/support/expect_error.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::ExpectBadData;
using test::kGolden;
using test::Load;
using test::ModelCopy;
using test::ReadAll;
using test::Save;
using test::TempFolder;
using test::Tensors;

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
