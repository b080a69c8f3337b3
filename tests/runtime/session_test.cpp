// ctest: unit
#include "runtime/session.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "memory/error.h"
#include "runtime/ids.h"
#include "runtime/prompt.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

constexpr const char* kDemo = TANDEM_SOURCE_DIR "/model/demo";

SessionOptions Demo() {
  SessionOptions options;
  options.model_dir = kDemo;
  options.device = "none";
  return options;
}

TEST(Session, FlagsStandAboveTheProfile) {
  const test::TempFolder folder;
  SessionOptions options = Demo();
  options.profile = folder.Write("p.yaml", "device: none\nworkload: {context: 1024, chunk: 32}\n");
  EXPECT_EQ(ProfileOf(options).context, 1024);
  options.context = 256;
  options.threads = 1;
  options.sequences = 2;
  const Session session = OpenSession(options);
  EXPECT_EQ(session.profile.context, 256);
  EXPECT_EQ(session.plan.max_rows, 32);
  EXPECT_EQ(session.plan.max_sequences, 2);
  ASSERT_EQ(session.plan.nodes.size(), 1U);
  EXPECT_EQ(session.plan.nodes[0].cores.size(), 1U);
  EXPECT_TRUE(session.plan.devices.empty());
  EXPECT_EQ(ContextLimit(session), 256);
}

TEST(Session, TheModelBoundsTheContext) {
  SessionOptions options = Demo();
  options.context = 100000;
  EXPECT_EQ(ContextLimit(OpenSession(options)), 4096);
}

TEST(Session, WantsOneModel) {
  SessionOptions options;
  options.device = "none";
  EXPECT_THROW(OpenSession(options), UsageError);
  options.model_dir = kDemo;
  options.synthetic = "deepseek-v3";
  EXPECT_THROW(OpenSession(options), UsageError);
}

TEST(Session, ASyntheticModelIsPlannedWithoutFiles) {
  SessionOptions options;
  options.device = "none";
  options.synthetic = "deepseek-v2-lite:layers=2:dtype=bf16";
  const Session session = OpenSession(options);
  EXPECT_EQ(session.model.config.num_hidden_layers, 2);
  EXPECT_GT(session.plan.host_bytes, 0U);
}

TEST(Prompt, BosComesOnce) {
  const Config config = ReadConfig(kDemo);
  const Tokenizer tokenizer = ReadTokenizer(kDemo, config.vocab_size);
  const std::int32_t bos = config.bos_token_id.value();
  const auto plain = EncodePrompt("Hark", config, tokenizer, /*add_bos=*/false);
  const auto with = EncodePrompt("Hark", config, tokenizer, /*add_bos=*/true);
  const auto written =
      EncodePrompt("<｜begin▁of▁sentence｜>Hark", config, tokenizer, /*add_bos=*/true);
  EXPECT_NE(plain.front(), bos);
  EXPECT_EQ(with.size(), plain.size() + 1);
  EXPECT_EQ(with.front(), bos);
  EXPECT_EQ(written, with);
  EXPECT_EQ(EncodePrompt("", config, tokenizer, true), std::vector<std::int32_t>{bos});
  EXPECT_TRUE(EncodePrompt("", config, tokenizer, false).empty());
}

TEST(Prompt, AddBosIsReadFromTheTokenizerConfig) {
  const test::TempFolder folder;
  EXPECT_TRUE(ReadAddBos(folder.path().string()));  // no file
  const auto with = [&](const std::string& text) {
    folder.Write("tokenizer_config.json", text);
    return ReadAddBos(folder.path().string());
  };
  EXPECT_TRUE(with("{}"));
  EXPECT_TRUE(with(R"({"add_bos_token": null})"));
  EXPECT_TRUE(with(R"({"add_bos_token": true})"));
  EXPECT_FALSE(with(R"({"add_bos_token": false})"));
  EXPECT_THROW(with(R"({"add_bos_token": 1})"), CheckpointError);
  EXPECT_THROW(with("{"), CheckpointError);
}

TEST(Ids, AreParsedFromTextAndChecked) {
  EXPECT_EQ(ParseIds(" 1, 2\n3 [4]", 5), (std::vector<std::int32_t>{1, 2, 3, 4}));
  EXPECT_TRUE(ParseIds("", 5).empty());
  for (const char* text : {"5", "-1", "x", "1.5", "99999999999", "1 2x"}) {
    EXPECT_THROW(ParseIds(text, 5), UsageError) << text;
  }
}

TEST(Ids, ComeFromJsonAndSafetensors) {
  const test::TempFolder folder;
  EXPECT_EQ(ReadIds(folder.Write("ids.json", "[3, 1, 2]"), 4),
            (std::vector<std::int32_t>{3, 1, 2}));
  const auto golden = ReadIds(TANDEM_SOURCE_DIR "/tests/golden/v3/golden.safetensors", 384);
  EXPECT_EQ(golden.size(), 96U);
  for (const char* text : {"[1, \"a\"]", "{\"a\": 1}", "[1", "[1.5]", "[-1]", "[4294967297]", ""}) {
    EXPECT_THROW(ReadIds(folder.Write("bad.json", text), 4), CheckpointError) << text;
  }
  EXPECT_THROW(ReadIds(folder.Write("big.json", "[4]"), 4), UsageError);
  EXPECT_THROW(ReadIds(folder.Write("none.json", "[]"), 4), UsageError);
  EXPECT_THROW(ReadIds(kDemo + std::string("/model.safetensors"), 384), CheckpointError);
  EXPECT_THROW(ReadIds(folder.path().string() + "/absent", 4), SystemError);
}

}  // namespace
}  // namespace tandem
