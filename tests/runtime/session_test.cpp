// ctest: unit
#include "runtime/session.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
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

TEST(Session, FlagsStandAboveVariablesAndTheseAboveTheProfile) {
  const test::TempFolder folder;
  SessionOptions options = Demo();
  options.profile = folder.Write("p.yaml", "workload: {context: 1024, chunk: 32, sequences: 3}\n");
  ::setenv("TANDEM_WORKLOAD_CONTEXT", "2048", 1);
  ::setenv("TANDEM_WORKLOAD_CHUNK", "16", 1);
  ::setenv("TANDEM_KV_TYPE", "", 1);  // says nothing
  options.settings.push_back({"workload.context", "512", "--ctx"});
  const Profile profile = ProfileOf(options);
  EXPECT_EQ(profile.context, 512);
  EXPECT_EQ(profile.chunk, 16);
  EXPECT_EQ(profile.origins.at("workload.chunk"), "TANDEM_WORKLOAD_CHUNK");
  EXPECT_EQ(profile.max_sequences, 3);
  EXPECT_FALSE(profile.kv_type);
  ::setenv("TANDEM_KV_TPYE", "f32", 1);
  try {
    ProfileOf(options);
    ADD_FAILURE() << "a misspelt variable was taken";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("TANDEM_KV_TYPE"), std::string::npos) << error.what();
  }
  for (const char* name :
       {"TANDEM_WORKLOAD_CONTEXT", "TANDEM_WORKLOAD_CHUNK", "TANDEM_KV_TYPE", "TANDEM_KV_TPYE"}) {
    ::unsetenv(name);
  }
}

// The demo model, a profile and what OpenSession says of it; empty if it is taken.
std::string Refused(SessionOptions options, const std::filesystem::path& profile) {
  options.profile = profile;
  try {
    OpenSession(options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Session, AProfileForAnotherMachineOrModelIsRefusedOrAdapted) {
  const test::TempFolder folder;
  const Session here = OpenSession(Demo());
  const std::string machine = Fingerprint(here.machine);
  const std::string model = ModelFingerprint(here.model.config, here.model.tensors);
  const auto write = [&](const std::string& made_for) {
    return folder.Write("p.yaml",
                        "threads: 1\nworkload: {chunk: 24, context: 640}\nplacement: "
                        "{experts_order: [3]}\nmade_for: " +
                            made_for);
  };
  const std::string other = "0000000000000000";
  EXPECT_EQ(Refused(Demo(), write("{machine: " + machine + ", model: " + model + "}")), "");
  const std::string text = Refused(Demo(), write("{machine: " + other + ", model: " + model + "}"));
  for (const std::string& word : {std::string("p.yaml"), "expected " + other, "found " + machine,
                                  std::string("--adapt"), std::string("tandem tune")}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << " in " << text;
  }
  EXPECT_EQ(text.find("model:"), std::string::npos) << text;
  EXPECT_NE(Refused(Demo(), write("{model: " + other + "}")).find("found " + model),
            std::string::npos);

  SessionOptions options = Demo();
  options.adapt = true;
  options.profile = write("{machine: " + other + ", model: " + model + "}");
  const Session adapted = OpenSession(options);
  EXPECT_FALSE(adapted.profile.threads);
  EXPECT_FALSE(adapted.profile.chunk);
  EXPECT_EQ(adapted.profile.context, 640);
  EXPECT_EQ(adapted.profile.experts_order, std::vector<int>{3});
  ASSERT_FALSE(adapted.plan.notes.empty());
  EXPECT_NE(adapted.plan.notes.back().find("threads, workload.chunk"), std::string::npos);
}

TEST(Session, StatisticsMustBeOfTheModel) {
  const test::TempFolder folder;
  const Session here = OpenSession(Demo());
  RoutingStatistics statistics;
  statistics.model = "demo";
  statistics.fingerprint = ModelFingerprint(here.model.config, here.model.tensors);
  statistics.layers = here.model.config.num_hidden_layers;
  statistics.experts = here.model.config.n_routed_experts;
  statistics.experts_per_token = here.model.config.num_experts_per_tok;
  WriteStatistics(statistics, (folder / "right.json").string());
  statistics.fingerprint = "0000000000000000";
  WriteStatistics(statistics, (folder / "wrong.json").string());
  SessionOptions options = Demo();
  options.profile = folder.Write("p.yaml", "placement: {experts: {statistics: right.json}}\n");
  EXPECT_TRUE(OpenSession(options).statistics.has_value());
  const auto with = [&](const char* name) {
    return folder.Write("q.yaml",
                        std::string("placement: {experts: {statistics: ") + name + "}}\n");
  };
  EXPECT_NE(Refused(Demo(), with("wrong.json")), "");
  options.profile = with("absent.json");
  EXPECT_THROW(OpenSession(options), SystemError);
  EXPECT_FALSE(OpenSession(Demo()).statistics.has_value());
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
