// ctest: unit
#include "model/gguf_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <xxhash.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "model/gguf.h"
#include "model/gguf_config.h"
#include "model/gguf_writer_config.h"
#include "model/gguf_writer_tokenizer.h"
#include "model/tensor_source.h"
#include "model/tokenizer_json.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using test::ExpectError;
using test::TempFolder;

std::vector<std::byte> Pattern(std::uint64_t bytes, int seed) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7 + seed);
  return data;
}

std::vector<GgufOutTensor> ThreeTensors() {
  return {{"a.weight", {64, 5}, DType::kQ8_0},  // 340 bytes: the next one needs padding
          {"b.weight", {3}, DType::kF32},
          {"c.weight", {256, 2, 4}, DType::kQ4_K}};
}

std::size_t FilesIn(const TempFolder& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()));
}

GgufKeyValues Metadata() {
  GgufKeyValues metadata;
  metadata.Add("general.architecture", "deepseek2");
  metadata.Add("x.int", std::uint32_t{7});
  metadata.Add("x.real", 0.25F);
  metadata.Add("x.bool", true);
  const std::vector<std::string> words = {"Ġthe", "", "a b"};
  metadata.Add("x.words", std::span<const std::string>(words));
  const std::vector<std::int32_t> ints = {-1, 2};
  metadata.Add("x.ints", std::span<const std::int32_t>(ints));
  return metadata;
}

TEST(GgufWriter, IsReadBack) {
  const TempFolder folder;
  const fs::path path = folder / "m.gguf";
  GgufWriter writer(path, Metadata(), ThreeTensors());
  for (std::size_t i = 0; i < 3; ++i) {
    const auto data = Pattern(writer.tensors()[i].bytes(), static_cast<int>(i));
    const std::size_t cut = data.size() / 3;
    writer.Write(i, 0, std::span(data).first(cut));
    writer.Write(i, cut, std::span(data).subspan(cut));
  }
  EXPECT_FALSE(fs::exists(path));
  writer.Finish();
  EXPECT_EQ(FilesIn(folder), 1U);

  const Gguf gguf(path);
  EXPECT_EQ(gguf.files()[0].size(), writer.file_bytes());
  EXPECT_TRUE(gguf.warnings().empty());
  const GgufMetadata& m = gguf.metadata();
  EXPECT_EQ(m.Int("x.int", {0, 100}), 7);
  EXPECT_EQ(m.Real("x.real", {0, 1}), 0.25);
  EXPECT_TRUE(m.Bool("x.bool", false));
  EXPECT_EQ(m.Strings("x.words"), (std::vector<std::string_view>{"Ġthe", "", "a b"}));
  EXPECT_EQ(m.Ints("x.ints"), (std::vector<std::int64_t>{-1, 2}));
  ASSERT_EQ(gguf.tensors().size(), 3U);
  const GgufValue* hashes = m.Find(kGgufHashValues);
  ASSERT_NE(hashes, nullptr);
  for (std::size_t i = 0; i < 3; ++i) {
    const GgufTensor& t = gguf.tensors()[i];
    EXPECT_EQ(t.name, writer.tensors()[i].name);
    EXPECT_EQ(t.ne, writer.tensors()[i].dimensions);
    EXPECT_EQ(t.dtype, writer.tensors()[i].format);
    EXPECT_EQ(t.offset % kGgufAlignment, 0U);
    std::vector<std::byte> data(t.bytes);
    gguf.files()[0].PReadExact(t.offset, data);
    EXPECT_EQ(data, Pattern(t.bytes, static_cast<int>(i)));
    EXPECT_EQ(m.Strings(kGgufHashNames)[i], t.name);
    std::uint64_t hash = 0;
    std::memcpy(&hash, hashes->bytes.data() + i * sizeof(hash), sizeof(hash));
    EXPECT_EQ(hash, XXH3_64bits(data.data(), data.size()));
  }
}

TEST(GgufWriter, TakesPiecesFromManyThreads) {
  const TempFolder folder;
  const fs::path path = folder / "m.gguf";
  const std::vector<GgufOutTensor> tensors = {{"t", {32, 4096}, DType::kQ8_0}};
  const auto data = Pattern(tensors[0].bytes(), 3);
  GgufWriter writer(path, {}, tensors);
  constexpr std::size_t kPiece = 34 * 16;
  std::atomic<std::size_t> next{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (std::size_t at = kPiece * next++; at < data.size(); at = kPiece * next++) {
          writer.Write(0, at, std::span(data).subspan(at, std::min(kPiece, data.size() - at)));
        }
      });
    }
  }
  writer.Finish();
  const Gguf gguf(path);
  std::vector<std::byte> read(data.size());
  gguf.files()[0].PReadExact(gguf.tensors()[0].offset, read);
  EXPECT_EQ(read, data);
  std::uint64_t hash = 0;
  std::memcpy(&hash, gguf.metadata().Find(kGgufHashValues)->bytes.data(), sizeof(hash));
  EXPECT_EQ(hash, XXH3_64bits(data.data(), data.size()));
}

TEST(GgufWriter, LeavesNothingBehindWhenItIsNotFinished) {
  const TempFolder folder;
  {
    GgufWriter writer(folder / "m.gguf", Metadata(), ThreeTensors());
    writer.Write(1, 0, Pattern(12, 0));
    EXPECT_EQ(FilesIn(folder), 1U);
  }
  EXPECT_EQ(FilesIn(folder), 0U);
}

TEST(GgufWriter, StopEndsThoseWhoWait) {
  const TempFolder folder;
  GgufWriter writer(folder / "m.gguf", {}, ThreeTensors());
  std::jthread waiting([&] {
    ExpectError<Error>(ExitCode::kIo, {"stopped"}, [&] {
      writer.Write(0, 34, Pattern(34, 0));
    });  // the first piece never comes
  });
  writer.Stop();
}

// A limit on the size of files stands in for a full disk.
TEST(GgufWriter, SaysAtOnceThatThereIsNoRoom) {
  const TempFolder folder;
  struct rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::vector<GgufOutTensor> large = {{"t", {1024, 1024}, DType::kF32}};
  ExpectError<SystemError>(ExitCode::kIo, {"m.gguf", "bytes"},
                           [&] { GgufWriter(folder / "m.gguf", {}, large); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(FilesIn(folder), 0U);
}

TEST(GgufWriter, TheFormOfKvbFollowsTheSizes) {
  EXPECT_EQ(KvbFormFor(OpenSynthetic("deepseek-v2-lite").config), KvbForm::kSplit);
  EXPECT_EQ(KvbFormFor(OpenSynthetic("deepseek-v3").config), KvbForm::kSplit);
  EXPECT_EQ(KvbFormFor(ReadConfig(TANDEM_SOURCE_DIR "/model/demo")), KvbForm::kJoint);
}

// The config that a reader gets back is the one that was written.
TEST(GgufWriter, KeepsTheConfig) {
  for (const char* spec : {"deepseek-moe-16b:vocab=512", "deepseek-v2-lite:vocab=512",
                           "deepseek-v2:vocab=512", "deepseek-v3:vocab=512"}) {
    SCOPED_TRACE(spec);
    const Config c = OpenSynthetic(spec).config;
    const TempFolder folder;
    GgufKeyValues metadata;
    AddGgufConfig(c, KvbFormFor(c), metadata);
    AddVocabulary(SyntheticVocabulary(c), metadata);
    std::vector<GgufOutTensor> tensors;
    GgufWriter writer(folder / "m.gguf", metadata, tensors);
    writer.Finish();
    const Config r = ReadGgufConfig(Gguf(folder / "m.gguf"));
    EXPECT_EQ(r.hidden_size, c.hidden_size);
    EXPECT_EQ(r.num_hidden_layers, c.num_hidden_layers);
    EXPECT_EQ(r.num_attention_heads, c.num_attention_heads);
    EXPECT_EQ(r.vocab_size, c.vocab_size);
    EXPECT_EQ(r.max_position_embeddings, c.max_position_embeddings);
    EXPECT_EQ(r.intermediate_size, c.intermediate_size);
    EXPECT_EQ(r.rms_norm_eps, c.rms_norm_eps);
    EXPECT_EQ(r.attention, c.attention);
    EXPECT_EQ(r.q_lora_rank, c.q_lora_rank);
    EXPECT_EQ(r.kv_lora_rank, c.kv_lora_rank);
    EXPECT_EQ(r.qk_nope_head_dim, c.qk_nope_head_dim);
    EXPECT_EQ(r.qk_rope_head_dim, c.qk_rope_head_dim);
    EXPECT_EQ(r.v_head_dim, c.v_head_dim);
    EXPECT_EQ(r.rope_theta, c.rope_theta);
    EXPECT_NEAR(r.softmax_scale(), c.softmax_scale(), 1e-6 * c.softmax_scale());
    EXPECT_EQ(r.rope_attention_factor(), c.rope_attention_factor());
    EXPECT_EQ(r.inv_freq(), c.inv_freq());
    EXPECT_EQ(r.n_routed_experts, c.n_routed_experts);
    EXPECT_EQ(r.n_shared_experts, c.n_shared_experts);
    EXPECT_EQ(r.num_experts_per_tok, c.num_experts_per_tok);
    EXPECT_EQ(r.moe_intermediate_size, c.moe_intermediate_size);
    EXPECT_EQ(r.first_k_dense_replace, c.first_k_dense_replace);
    EXPECT_EQ(r.n_group, c.n_group);
    EXPECT_EQ(r.topk_group, c.topk_group);
    EXPECT_EQ(r.scoring_func, c.scoring_func);
    EXPECT_EQ(r.norm_topk_prob, c.norm_topk_prob);
    EXPECT_EQ(r.routed_scaling_factor, c.routed_scaling_factor);
  }
}

TEST(GgufWriter, ReadsTheDemosVocabulary) {
  const std::string dir = TANDEM_SOURCE_DIR "/model/demo";
  const Config config = ReadConfig(dir);
  const GgufVocabulary v = ReadVocabulary(dir, config);
  EXPECT_EQ(v.pre, "deepseek-v3");
  ASSERT_EQ(v.tokens.size(), 2048U);
  EXPECT_EQ(v.tokens[0], "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(v.types[0], 3);
  EXPECT_EQ(v.merges.at(0), "Ġ t");
  EXPECT_EQ(v.bos, 0);
  EXPECT_EQ(v.eos, 1);
  EXPECT_EQ(v.pad, 2);
}

TEST(GgufWriter, KnowsThePreTokenizerOfV2AndRefusesOthers) {
  const TempFolder folder;
  Config config = ReadConfig(TANDEM_SOURCE_DIR "/model/demo");
  config.vocab_size = 4096;
  folder.Write("tokenizer.json",
               test::ReadText(TANDEM_SOURCE_DIR "/tests/golden/tokenizer_v2.json"));
  EXPECT_EQ(ReadVocabulary(folder.path().string(), config).pre, "deepseek-llm");
  std::string text = test::ReadText(TANDEM_SOURCE_DIR "/model/demo/tokenizer.json");
  text.replace(text.find("\\\\p{N}{1,3}"), 11, "\\\\p{N}{1,2}");
  folder.Write("tokenizer.json", text);
  test::ExpectBadData({"pre_tokenizer", "deepseek-v3"},
                      [&] { ReadVocabulary(folder.path().string(), config); });
  config.vocab_size = 100;
  folder.Write("tokenizer.json", test::ReadText(TANDEM_SOURCE_DIR "/model/demo/tokenizer.json"));
  test::ExpectBadData({"100 rows"}, [&] { ReadVocabulary(folder.path().string(), config); });
}

TEST(GgufWriter, MakesAVocabularyOfAnySize) {
  Config config = OpenSynthetic("deepseek-v2-lite").config;
  const GgufVocabulary v = SyntheticVocabulary(config);
  ASSERT_EQ(v.tokens.size(), 102400U);
  ASSERT_EQ(v.types.size(), 102400U);
  std::vector<std::string> sorted = v.tokens;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end()) << "a token is doubled";
  EXPECT_EQ(v.merges.size(), 102400U - 258U);
  EXPECT_EQ(v.merges.front(), "a a");
  const std::string_view last = v.tokens.back();
  EXPECT_EQ(v.merges.back(), fmt::format("{} {}", last.substr(0, last.size() - 1), last.back()));
  config.vocab_size = 257;
  ExpectError<ConfigError>(ExitCode::kConfig, {"257"}, [&] { SyntheticVocabulary(config); });
}

}  // namespace
}  // namespace tandem
