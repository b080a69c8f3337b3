// ctest: unit
#include "runtime/convert.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <vector>

#include "memory/error.h"
#include "memory/file.h"
#include "model/checkpoint.h"
#include "model/finite.h"
#include "model/gguf.h"
#include "model/open_model.h"
#include "model/quantized_model_rows.h"
#include "model/tokenizer.h"
#include "runtime/format_options.h"
#include "runtime/recipe_file.h"
#include "runtime/session.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using test::ExpectBadData;
using test::ExpectError;
using test::TempFolder;

constexpr const char* kDemo = TANDEM_SOURCE_DIR "/model/demo";

Recipe Mix(std::string_view mix) {
  Recipe recipe;
  recipe.mix = mix;
  return recipe;
}

ConvertOptions To(const fs::path& path, std::string_view mix) {
  return {.out = path.string(), .recipe = Mix(mix), .threads = 3};
}

std::vector<std::byte> Bytes(const Model& model, const TensorInfo& tensor) {
  std::vector<std::byte> bytes(tensor.data.bytes);
  model.source->Read(tensor, Piece::kData, 0, bytes);
  return bytes;
}

std::vector<float> Values(const Model& model, const TensorInfo& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  ReadRows(*model.source, tensor, 0, MatrixRows(tensor), values.data());
  return values;
}

std::vector<fs::path> FilesIn(const TempFolder& folder) {
  return {fs::directory_iterator(folder.path()), fs::directory_iterator()};
}

// In F32 nothing is lost: the file holds exactly what the folder holds.
TEST(Convert, F32HoldsTheModelExactly) {
  const TempFolder folder;
  const Model source = OpenCheckpoint(kDemo);
  const ConvertResult result = Convert(source, To(folder / "m.gguf", "f32"), nullptr);
  const Model model = OpenModel((folder / "m.gguf").string());
  EXPECT_EQ(result.file_bytes, fs::file_size(folder / "m.gguf"));
  ASSERT_EQ(result.notes.size(), 1U);  // the MTP layer
  std::size_t compared = 0;
  for (const TensorInfo& theirs : source.tensors.all()) {
    if (theirs.role == Role::kMtp) continue;
    const TensorInfo& ours =
        model.tensors.Get(theirs.role, theirs.part, theirs.layer, theirs.expert);
    EXPECT_EQ(Values(model, ours), Values(source, theirs)) << theirs.name;
    ++compared;
  }
  EXPECT_EQ(compared, model.tensors.all().size());
  EXPECT_EQ(model.config.n_group, source.config.n_group);
  EXPECT_EQ(model.config.eos_token_ids, source.config.eos_token_ids);
}

// The file holds what loading with the same mix gives, whichever way kv_b lies.
TEST(Convert, AFileIsWhatQuantisingWhileLoadingGives) {
  const TempFolder folder;
  const Model source = OpenCheckpoint(kDemo);
  Convert(source, To(folder / "m.gguf", "q4_k_m"), nullptr);
  const Model file = OpenModel((folder / "m.gguf").string());
  const Model loaded = Quantized(source, Mix("q4_k_m")).model;
  int compared = 0;
  for (const TensorInfo& t : loaded.tensors.all()) {
    if (!IsQuantizable(t) || t.part == Part::kKB || t.part == Part::kVB) continue;
    const TensorInfo& ours = file.tensors.Get(t.role, t.part, t.layer, t.expert);
    EXPECT_EQ(ours.dtype, t.dtype) << t.name;
    EXPECT_EQ(Bytes(file, ours), Bytes(loaded, t)) << t.name;
    ++compared;
  }
  EXPECT_GT(compared, 300);
}

TEST(Convert, KeepsTheTokenizer) {
  const TempFolder folder;
  const Model source = OpenCheckpoint(kDemo);
  Convert(source, To(folder / "m.gguf", "q8_0"), nullptr);
  const std::int64_t size = source.config.vocab_size;
  const Tokenizer theirs = ReadTokenizer(kDemo, size);
  const Tokenizer ours = ReadTokenizer((folder / "m.gguf").string(), size);
  for (const char* text :
       {"ROMEO:\nBut, soft! what light", "  1234 x\n\n\tthou'rt <｜User｜> é€漢"}) {
    EXPECT_EQ(ours.Encode(text), theirs.Encode(text)) << text;
  }
}

TEST(Convert, AGgufFileCanBeConvertedToo) {
  const TempFolder folder;
  const Model source = OpenCheckpoint(kDemo);
  Convert(source, To(folder / "a.gguf", "f32"), nullptr);
  Convert(source, To(folder / "direct.gguf", "q6_k"), nullptr);
  Convert(OpenModel((folder / "a.gguf").string()), To(folder / "again.gguf", "q6_k"), nullptr);
  const Gguf direct(folder / "direct.gguf");
  const Gguf again(folder / "again.gguf");
  EXPECT_EQ(direct.metadata().Find("tandem.xxh3.values")->bytes,
            again.metadata().Find("tandem.xxh3.values")->bytes);
  EXPECT_EQ(direct.metadata().Strings("tokenizer.ggml.tokens"),
            again.metadata().Strings("tokenizer.ggml.tokens"));
}

// A synthetic model of DeepSeek's own sizes has its kv_b in two parts.
TEST(Convert, SyntheticModelsHaveAVocabularyAndSplitKvb) {
  const TempFolder folder;
  const Model source = OpenSynthetic("deepseek-v2-lite:layers=2:experts=8:vocab=1024");
  Convert(source, To(folder / "m.gguf", "q4_0"), nullptr);
  const Gguf gguf(folder / "m.gguf");
  const GgufTensor* k_b = gguf.Find("blk.1.attn_k_b.weight");
  ASSERT_NE(k_b, nullptr);
  EXPECT_EQ(k_b->ne, (std::vector<std::int64_t>{128, 512, 16}));
  EXPECT_EQ(gguf.Find("blk.1.attn_v_b.weight")->ne, (std::vector<std::int64_t>{512, 128, 16}));
  EXPECT_EQ(gguf.Find("blk.1.ffn_down_exps.weight")->ne,
            (std::vector<std::int64_t>{1408, 2048, 8}));
  EXPECT_EQ(gguf.metadata().Strings("tokenizer.ggml.tokens").size(), 1024U);
  const Model model = OpenModel((folder / "m.gguf").string());
  EXPECT_EQ(model.tensors.Get(Role::kRouted, Part::kDown, 1, 7).dtype, DType::kQ4_0);
}

TEST(Convert, DoesNotOverwriteUnlessAsked) {
  const TempFolder folder;
  const fs::path path = folder.Write("m.gguf", "precious");
  const Model source = OpenCheckpoint(kDemo);
  ConvertOptions options = To(path, "q8_0");
  ExpectError<UsageError>(ExitCode::kUsage, {"m.gguf", "--force"},
                          [&] { Convert(source, options, nullptr); });
  EXPECT_EQ(test::ReadText(path), "precious");
  options.overwrite = true;
  Convert(source, options, nullptr);
  EXPECT_GT(fs::file_size(path), 1000U);
}

class CancelSoon final : public ProgressSink {
 public:
  void Begin(std::string_view, std::uint64_t) override {}
  void Update(std::uint64_t) override { seen_ = true; }
  void End() override { ended_ = true; }
  bool Cancelled() const override { return seen_; }
  bool ended() const { return ended_; }

 private:
  std::atomic<bool> seen_{false};
  std::atomic<bool> ended_{false};
};

TEST(Convert, ACancelLeavesNoFile) {
  const TempFolder folder;
  CancelSoon progress;
  ExpectError<Error>(ExitCode::kIo, {"interrupted"}, [&] {
    Convert(OpenCheckpoint(kDemo), To(folder / "m.gguf", "q8_0"), &progress);
  });
  EXPECT_TRUE(FilesIn(folder).empty());
}

TEST(Convert, MissingFolderOfTheOutput) {
  const TempFolder folder;
  ExpectError<SystemError>(ExitCode::kMissingFile, {"nowhere"}, [&] {
    Convert(OpenCheckpoint(kDemo), To(folder / "nowhere" / "m.gguf", "q8_0"), nullptr);
  });
}

// -- verify ---------------------------------------------------------------------------------------

void Overwrite(const fs::path& path, std::uint64_t offset, std::string_view bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

TEST(Verify, AGoodFileAndAGoodFolder) {
  const TempFolder folder;
  Convert(OpenCheckpoint(kDemo), To(folder / "m.gguf", "q4_k_m"), nullptr);
  const VerifyResult file = Verify((folder / "m.gguf").string(), 2, nullptr);
  EXPECT_EQ(file.hashed, file.tensors);
  EXPECT_EQ(file.tensors, std::ssize(Gguf(folder / "m.gguf").tensors()));
  const VerifyResult model = Verify(kDemo, 2, nullptr);
  EXPECT_EQ(model.hashed, 0);
  EXPECT_GT(model.tensors, 300);
}

TEST(Verify, FindsASingleBitInEveryTensorItIsIn) {
  const TempFolder folder;
  const fs::path path = folder / "m.gguf";
  Convert(OpenCheckpoint(kDemo), To(path, "q8_0"), nullptr);
  const GgufTensor tensor = *Gguf(path).Find("blk.2.ffn_up_exps.weight");
  const std::string text = test::ReadText(path);
  const std::uint64_t at = tensor.offset + tensor.bytes - 1;  // a code: stays finite
  Overwrite(path, at, std::string(1, static_cast<char>(text[at] ^ 1)));
  ExpectBadData({"blk.2.ffn_up_exps.weight", "XXH3", "1 of"},
                [&] { Verify(path.string(), 2, nullptr); });
}

TEST(Verify, NamesTheBlockWhoseScaleIsNotFinite) {
  const TempFolder folder;
  const fs::path path = folder / "m.gguf";
  Convert(OpenCheckpoint(kDemo), To(path, "q8_0"), nullptr);
  const GgufTensor tensor = *Gguf(path).Find("blk.1.attn_output.weight");  // rows of 8 blocks
  Overwrite(path, tensor.offset + 34 * (8 * 5 + 3), std::string("\x00\x7E", 2));
  ExpectBadData({"blk.1.attn_output.weight", "block 43", "row 5", "column 96"},
                [&] { Verify(path.string(), 2, nullptr); });
}

TEST(Verify, NamesTheValueInAFolder) {
  const TempFolder folder;
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    fs::copy_file(fs::path(kDemo) / name, folder / name);
  }
  const Checkpoint checkpoint(folder.path());
  const SafetensorsEntry& norm = checkpoint.tensors().at("model.norm.weight").entry;
  ASSERT_EQ(norm.dtype, DType::kBF16);
  Overwrite(folder / "model.safetensors", norm.offset + 2 * 17, std::string("\x80\x7F", 2));
  ExpectBadData({"model.norm.weight", "value 17"},
                [&] { Verify(folder.path().string(), 2, nullptr); });
}

TEST(Verify, TheProgramsExitCodes) {
  const TempFolder folder;
  const auto run = [&](const std::string& arguments) {
    const std::string line = std::string(TANDEM_BINARY) + " " + arguments + " >/dev/null 2>&1";
    return WEXITSTATUS(std::system(line.c_str()));
  };
  const std::string path = (folder / "m.gguf").string();
  EXPECT_EQ(run("convert --model " + std::string(kDemo) + " --quantize q4_0 --out " + path), 0);
  EXPECT_EQ(run("convert --model " + std::string(kDemo) + " --quantize q4_0 --out " + path), 2);
  EXPECT_EQ(run("convert --model " + std::string(kDemo) + " --quantize q9 --out " + path), 78);
  EXPECT_EQ(run("verify -q " + path), 0);
  fs::resize_file(path, fs::file_size(path) - 1000);
  EXPECT_EQ(run("verify -q " + path), 65);
  EXPECT_EQ(run("verify -q " + path + ".absent"), 66);
}

// -- every format's values that are not finite ----------------------------------------------------

struct Damage {
  DType format;
  std::size_t place;  // of two bytes, or the one of MXFP4
};

TEST(Finite, FindsEveryScale) {
  constexpr std::array<Damage, 17> kPlaces{{{DType::kQ8_0, 0},
                                            {DType::kQ4_0, 0},
                                            {DType::kQ4_1, 0},
                                            {DType::kQ4_1, 2},
                                            {DType::kQ5_0, 0},
                                            {DType::kQ5_1, 0},
                                            {DType::kQ5_1, 2},
                                            {DType::kIQ4_NL, 0},
                                            {DType::kMXFP4, 0},
                                            {DType::kQ2_K, 80},
                                            {DType::kQ2_K, 82},
                                            {DType::kQ3_K, 108},
                                            {DType::kQ4_K, 2},
                                            {DType::kQ5_K, 2},
                                            {DType::kQ6_K, 208},
                                            {DType::kIQ4_XS, 0},
                                            {DType::kF16, 0}}};
  for (const Damage& damage : kPlaces) {
    SCOPED_TRACE(Name(damage.format));
    std::vector<std::byte> bytes(BlockBytes(damage.format) * 5);
    EXPECT_EQ(FirstNotFinite(damage.format, bytes), -1);
    const std::size_t at = BlockBytes(damage.format) * 3 + damage.place;
    bytes[at] = bytes[at + (damage.format == DType::kMXFP4 ? 0 : 1)] = std::byte{0xFF};
    EXPECT_EQ(FirstNotFinite(damage.format, bytes), 3);
  }
}

TEST(Finite, FindsValuesOfEveryWidth) {
  std::vector<float> floats(10000, 3e38F);
  EXPECT_EQ(FirstNotFinite(DType::kF32, std::as_bytes(std::span(floats))), -1);
  floats[9999] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(FirstNotFinite(DType::kF32, std::as_bytes(std::span(floats))), 9999);
  floats[4096] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(FirstNotFinite(DType::kF32, std::as_bytes(std::span(floats))), 4096);
  std::vector<double> doubles(10, 1e300);
  EXPECT_EQ(FirstNotFinite(DType::kF64, std::as_bytes(std::span(doubles))), -1);
  doubles[4] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(FirstNotFinite(DType::kF64, std::as_bytes(std::span(doubles))), 4);
  std::vector<std::byte> codes(100, std::byte{0x7E});
  EXPECT_EQ(FirstNotFinite(DType::kF8E4M3, codes), -1);
  codes[70] = std::byte{0xFF};
  EXPECT_EQ(FirstNotFinite(DType::kF8E4M3, codes), 70);
}

// -- recipes in YAML, and flags -------------------------------------------------------------------

TEST(RecipeFile, SaysAllThatARecipeCan) {
  const Recipe recipe = ParseRecipe(
      "mix: q4_k_m\n"
      "formats: {experts: q4_k, shared: Q8_0, embeddings: bf16}\n"
      "rules:\n"
      "  - {tensors: 'blk.*.ffn_down_exps', layers: 0-3, format: q6_k}\n"
      "  - {tensors: output, format: q8_0}\n"
      "  - {tensors: 'blk.*.attn_*', layers: 5, format: f16}\n",
      "r.yaml");
  EXPECT_EQ(recipe.mix, "q4_k_m");
  EXPECT_EQ(recipe.by_role[static_cast<std::size_t>(Role::kRouted)], DType::kQ4_K);
  EXPECT_EQ(recipe.by_role[static_cast<std::size_t>(Role::kShared)], DType::kQ8_0);
  EXPECT_EQ(recipe.by_role[static_cast<std::size_t>(Role::kEmbedding)], DType::kBF16);
  ASSERT_EQ(recipe.rules.size(), 3U);
  EXPECT_EQ(recipe.rules[0].first_layer, 0);
  EXPECT_EQ(recipe.rules[0].last_layer, 3);
  EXPECT_EQ(recipe.rules[2].first_layer, 5);
  EXPECT_EQ(recipe.rules[2].last_layer, 5);
}

TEST(RecipeFile, RefusesWhatItDoesNotKnow) {
  const auto refused = [](const std::string& text, std::initializer_list<std::string_view> words) {
    SCOPED_TRACE(text);
    ExpectError<ConfigError>(ExitCode::kConfig, words, [&] { ParseRecipe(text, "r.yaml"); });
  };
  refused("", {"r.yaml"});
  refused("{}", {"r.yaml", "mix"});
  refused("mix: q4_k_x", {"r.yaml:1", "q4_k_x", "q4_k_m"});
  refused("mixx: q4_k_m", {"r.yaml:1", "mixx", "mix"});
  refused("formats: {expert: q4_k}", {"r.yaml:1", "expert", "experts"});
  refused("formats: {router: q4_k}", {"router"});
  refused("formats: {experts: q4}", {"r.yaml:1", "q4"});
  refused("formats: {experts: [q4_k]}", {"r.yaml:1"});
  refused("formats: q4_k", {"r.yaml:1"});
  refused("rules: {tensors: a, format: q4_k}", {"r.yaml:1"});
  refused("rules: [{tensors: a}]", {"format"});
  refused("rules: [{format: q4_k}]", {"tensors"});
  refused("rules: [{tensors: a, format: q4_k, layers: 3-1}]", {"layers"});
  refused("rules: [{tensors: a, format: q4_k, layers: -1}]", {"layers"});
  refused("rules: [{tensors: a, format: q4_k, layers: all}]", {"layers"});
  refused("rules: [{tensors: a, format: f8_e4m3}]", {"f8_e4m3"});
}

TEST(FormatOptionsTest, FlagsStandAboveTheMix) {
  SessionOptions options;
  options.model_dir = kDemo;
  options.formats.mix = "q4_k_m";
  options.formats.formats[0] = "q8_0";  // --experts
  const Model model = OpenModel(options);
  EXPECT_EQ(model.tensors.Get(Role::kRouted, Part::kUp, 2, 0).dtype, DType::kQ8_0);
  EXPECT_EQ(model.tensors.Get(Role::kHead, Part::kLmHead).dtype, DType::kQ6_K);
  options.formats.recipe_file = "r.yaml";
  ExpectError<UsageError>(ExitCode::kUsage, {"--recipe"}, [&] { OpenModel(options); });
  options.formats.mix.clear();
  ExpectError<SystemError>(ExitCode::kMissingFile, {"r.yaml"}, [&] { OpenModel(options); });
}

}  // namespace
}  // namespace tandem
