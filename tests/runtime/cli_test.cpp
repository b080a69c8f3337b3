// ctest: unit
// The `tandem` program from outside: what it prints, and how it ends. No OpenCL platform is needed:
// every call here runs with none installed.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const std::string kDemo = TANDEM_SOURCE_DIR "/model/demo";
const std::string kGolden = TANDEM_SOURCE_DIR "/tests/golden/v3";

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class Cli : public testing::Test {
 protected:
  Cli() { fs::create_directories(folder_ / "no-vendors"); }

  // The arguments are shell words.
  Outcome Tandem(const std::string& arguments, const std::string& input = "") const {
    folder_.Write("in", input);
    const std::string at = folder_.path().string();
    const std::string command = "OCL_ICD_VENDORS=" + at + "/no-vendors " TANDEM_BINARY " " +
                                arguments + " <" + at + "/in >" + at + "/out 2>" + at + "/err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            test::ReadText(folder_ / "out"), test::ReadText(folder_ / "err")};
  }
  Outcome Run(const std::string& arguments, const std::string& input = "") const {
    return Tandem("run --model " + kDemo + " --device none " + arguments, input);
  }

  // One line on stderr that holds all the words, and the code.
  void ExpectError(const std::string& arguments, int code,
                   const std::vector<std::string>& words) const {
    const Outcome got = Tandem(arguments);
    EXPECT_EQ(got.code, code) << arguments << "\n" << got.err;
    EXPECT_EQ(got.err.rfind("tandem: error: ", 0), 0U) << got.err;
    for (const std::string& word : words) {
      EXPECT_NE(got.err.find(word), std::string::npos) << "no '" << word << "' in " << got.err;
    }
  }

  // A copy of a model folder whose files may be changed.
  std::string CopyModel(const std::string& from = kDemo) const {
    const fs::path to = folder_ / "model";
    fs::remove_all(to);
    fs::copy(from, to);
    return to.string();
  }
  std::string Write(const std::string& name, const std::string& text) const {
    return folder_.Write(name, text).string();
  }
  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  test::TempFolder folder_;
};

const char* const kGreedy = "--temperature 0 --precision exact ";

// The ids of golden.json come from the reference implementation; they are compared as far as the
// margin between the two best logits is clear.
TEST_F(Cli, RunContinuesAsTheReferenceDoes) {
  const Json golden = Json::parse(test::ReadText(kDemo + "/golden.json"));
  const Tokenizer tokenizer = ReadTokenizer(kDemo, 2048);
  for (const Json& prompt : golden["prompts"]) {
    std::vector<std::int32_t> ids;
    for (std::size_t i = 0; i < 32 && prompt["margins"][i].get<double>() > 0.01; ++i) {
      ids.push_back(prompt["greedy_ids"][i]);
    }
    const std::string file = Write("prompt", prompt["prompt"].get<std::string>());
    const Outcome got =
        Run(kGreedy + ("--prompt-file " + file) + " --max-tokens " + std::to_string(ids.size()));
    EXPECT_EQ(got.code, 0) << got.err;
    EXPECT_EQ(got.out, tokenizer.Decode(ids) + "\n");
  }
}

TEST_F(Cli, RunEndsWithOneSummaryLine) {
  const Outcome got = Run("--prompt 'ROMEO:' --max-tokens 5 --seed 1");
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(std::count(got.err.begin(), got.err.end(), '\n'), 1) << got.err;
  for (const char* words : {"tandem: prompt ", "prefill ", "generated 5 tokens", "decode ",
                            "first token after ", "CPU"}) {
    EXPECT_NE(got.err.find(words), std::string::npos) << words << " in " << got.err;
  }
  EXPECT_EQ(Run("--prompt x --max-tokens 2 --quiet").err, "");
}

TEST_F(Cli, PromptsComeFromThreePlaces) {
  const std::string text = "First Citizen:\nBefore we";
  const std::string options = kGreedy + std::string("--max-tokens 12 ");
  const Outcome flag = Run(options + "--prompt 'First Citizen:\nBefore we'");
  EXPECT_EQ(flag.code, 0) << flag.err;
  EXPECT_GT(flag.out.size(), 5U);
  EXPECT_EQ(Run(options + "--prompt-file " + Write("p.txt", text)).out, flag.out);
  EXPECT_EQ(Run(options + "-", text).out, flag.out);
}

TEST_F(Cli, ASeedGivesTheSameText) {
  const std::string options = "--prompt 'KING' --max-tokens 30 --temperature 1.2 --top-p 1 ";
  const Outcome first = Run(options + "--seed 11");
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(Run(options + "--seed 11").out, first.out);
  EXPECT_NE(Run(options + "--seed 12").out, first.out);
}

TEST_F(Cli, AStopStringCutsTheText) {
  const std::string options = kGreedy + std::string("--max-tokens 40 --prompt 'ROMEO:\n' ");
  std::string whole = Run(options).out;
  whole.pop_back();
  const std::string stop = whole.substr(whole.size() / 2, 6);  // across tokens, most likely
  const Outcome got = Run(options + "--stop zzzz --stop '" + stop + "'");
  EXPECT_EQ(got.out, whole.substr(0, whole.find(stop)) + "\n");
  EXPECT_NE(got.err.find("(stop string)"), std::string::npos) << got.err;
}

TEST_F(Cli, ThePromptMayNotExceedTheContext) {
  ExpectError("run --model " + kDemo + " --device none --ctx 4 --prompt 'a b c d e f g h'", 2,
              {"tokens", "room for 4", "--ctx"});
  const Outcome full = Run(kGreedy + std::string("--ctx 8 --prompt 'a b' --max-tokens 99"));
  EXPECT_EQ(full.code, 0) << full.err;
  EXPECT_NE(full.err.find("context full"), std::string::npos) << full.err;
}

TEST_F(Cli, WrongUsageIsNamed) {
  const std::string run = "run --model " + kDemo + " --device none --prompt x ";
  ExpectError("", 2, {"subcommand"});
  ExpectError("runn", 2, {"did you mean 'run'"});
  ExpectError(run + "--temprature 1", 2, {"--temprature", "did you mean '--temperature'"});
  ExpectError("run --prompt x", 2, {"--model"});
  ExpectError("run --model " + kDemo, 2, {"--prompt"});
  ExpectError(run + "--prompt-file y", 2, {"one of"});
  ExpectError(run + "stray", 2, {"'stray'", "--prompt"});
  ExpectError(run + "--temperature nan", 2, {"--temperature", "[0, 100]", "nan"});
  ExpectError(run + "--temperature -1", 2, {"--temperature", "-1"});
  ExpectError(run + "--top-p 0", 2, {"--top-p", "(0, 1]"});
  ExpectError(run + "--min-p 2", 2, {"--min-p", "[0, 1]"});
  ExpectError(run + "--seed -1", 2, {"--seed"});
  ExpectError(run + "--max-tokens 0", 2, {"--max-tokens"});
  ExpectError(run + "--threads 0", 2, {"--threads"});
  ExpectError(run + "--stop ''", 2, {"--stop"});
  ExpectError(run + "--precision half", 2, {"--precision", "exact"});
  ExpectError("plan --device none", 2, {"--model", "--synthetic"});
}

TEST_F(Cli, HelpAndVersionGoToStandardOutput) {
  EXPECT_EQ(Tandem("--version").out, "tandem " TANDEM_VERSION "\n");
  for (const char* command :
       {"", "run", "chat", "logits", "inspect", "tokenize", "devices", "plan", "bench"}) {
    const Outcome got = Tandem(command + std::string(" --help"));
    EXPECT_EQ(got.code, 0) << command;
    EXPECT_NE(got.out.find("Usage: tandem"), std::string::npos) << command;
    EXPECT_EQ(got.err, "") << command;
  }
}

TEST_F(Cli, MissingFilesExitWith66) {
  ExpectError("run --model " + Path("absent") + " --device none --prompt x", 66, {"absent"});
  ExpectError("run --model " + kDemo + " --profile " + Path("no.yaml") + " --prompt x", 66,
              {"no.yaml"});
  ExpectError("run --model " + kDemo + " --device none --prompt-file " + Path("no.txt"), 66,
              {"no.txt"});
  const std::string model = CopyModel();
  fs::remove(model + "/tokenizer.json");
  ExpectError("run --device none --prompt x --model " + model, 66, {"tokenizer.json"});
}

TEST_F(Cli, DamagedModelsExitWith65) {
  const std::string model = CopyModel();
  const auto expect = [&](const std::vector<std::string>& words) {
    ExpectError("run --device none --prompt x --model " + model, 65, words);
  };
  std::string config = test::ReadText(kDemo + "/config.json");
  std::ofstream(model + "/config.json") << config.substr(0, config.size() / 2);
  expect({"config.json"});
  config.replace(config.find("deepseek_v3"), 11, "llama_v9999");
  std::ofstream(model + "/config.json") << config;
  expect({"llama_v9999", "deepseek_v3"});
  fs::copy_file(kDemo + "/config.json", model + "/config.json",
                fs::copy_options::overwrite_existing);

  const std::string weights = model + "/model.safetensors";
  fs::resize_file(weights, fs::file_size(weights) - 1000);
  expect({"model.safetensors"});
  fs::resize_file(weights, 5);
  expect({"model.safetensors"});
  std::ofstream(weights) << "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  expect({"git-lfs"});
  fs::copy_file(kDemo + "/model.safetensors", weights, fs::copy_options::overwrite_existing);

  std::ofstream(model + "/tokenizer.json") << "{\"model\": 1}";
  expect({"tokenizer.json"});
  fs::remove(weights);
  expect({"model.safetensors"});
}

TEST_F(Cli, AnAbsentDeviceExitsWith69) {
  ExpectError("run --model " + kDemo + " --prompt x --device 0", 69, {"0"});
  ExpectError("plan --model " + kDemo + " --device nvidia", 69, {"nvidia"});
  EXPECT_EQ(Tandem("devices").code, 0);
  EXPECT_EQ(Json::parse(Tandem("devices --output json").out)["opencl"]["devices"].size(), 0U);
}

TEST_F(Cli, BadProfilesAndSettingsExitWith78) {
  const std::string run = "run --model " + kDemo + " --prompt x --profile ";
  ExpectError(run + Write("key.yaml", "device: none\nthreds: 2\n"), 78,
              {"key.yaml:2:", "'threds'", "did you mean 'threads'"});
  ExpectError(run + Write("syntax.yaml", "device: [none\n"), 78, {"syntax.yaml:"});
  ExpectError("plan --synthetic deepseek-v9 --device none", 78, {"deepseek-v9", "deepseek-v3"});
}

TEST_F(Cli, LogitsWritesWhatTheGoldensHold) {
  const std::string out = Path("logits.safetensors");
  const std::string command = "logits --model " + kGolden + " --device none --dump --ids " +
                              kGolden + "/golden.safetensors --out " + out;
  const SafetensorsFile golden(kGolden + "/golden.safetensors");
  for (const char* chunk : {" --chunk 7", " --chunk 1", ""}) {
    const Outcome got = Tandem(command + chunk);
    ASSERT_EQ(got.code, 0) << got.err;
    const SafetensorsFile ours(out);
    double worst = 0;
    const auto a = ours.Floats("logits");
    const auto b = golden.Floats("logits");
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i)
      worst = std::max<double>(worst, std::abs(a[i] - b[i]));
    EXPECT_LT(worst, 1e-3) << chunk;
    for (const SafetensorsEntry& entry : golden.header().tensors) {
      if (!entry.name.starts_with("hidden") && !entry.name.starts_with("router")) continue;
      EXPECT_EQ(ours.Get(entry.name).shape, entry.shape) << entry.name;
      EXPECT_EQ(ours.Get(entry.name).dtype, entry.dtype) << entry.name;
    }
  }
}

TEST_F(Cli, LogitsChecksItsIds) {
  const std::string command =
      "logits --model " + kGolden + " --device none --out " + Path("o.safetensors") + " --ids ";
  ExpectError(command + Write("a.json", "[1, 384]"), 2, {"384", "position 1", "383"});
  ExpectError(command + Write("b.json", "[1, 2, 3]") + " --ctx 2", 2, {"3 tokens", "room for 2"});
  ExpectError(command + Write("c.json", "{}"), 65, {"c.json"});
  ExpectError(command + Path("absent.json"), 66, {"absent.json"});
  EXPECT_FALSE(fs::exists(Path("o.safetensors")));
}

TEST_F(Cli, InspectCountsParametersAndBytes) {
  const Outcome got = Tandem("inspect --output json --model " + kDemo);
  ASSERT_EQ(got.code, 0) << got.err;
  const Json json = Json::parse(got.out);
  EXPECT_EQ(json["architecture"]["model_type"], "deepseek_v3");
  EXPECT_EQ(json["chat_format"], "deepseek-v3");
  EXPECT_EQ(json["bytes"]["routed"], 3 * 128 * (64 * 256 + 2 * 4));  // FP8 with two scales each
  EXPECT_EQ(json["bytes"]["embedding"], 2048 * 256 * 2);
  // The published sizes of DeepSeek-V3: 671 B, of which 37 B are active.
  const Json v3 = Json::parse(Tandem("inspect --synthetic deepseek-v3 --output json").out);
  EXPECT_EQ(v3["parameters"]["total"], 671026419200);
  EXPECT_NEAR(v3["parameters"]["active"].get<double>(), 37e9, 0.5e9);
  const Outcome all = Tandem("inspect --tensors --model " + kDemo);
  EXPECT_NE(all.out.find("model.layers.4.mlp.experts.31.down_proj.weight"), std::string::npos);
}

TEST_F(Cli, TokenizeGoesThereAndBack) {
  const std::string model = " --model " + kDemo + " ";
  const Outcome ids = Tandem("tokenize" + model + "-", "O brave new world, né?");
  ASSERT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(Tandem("tokenize --decode" + model + "-", ids.out).out, "O brave new world, né?\n");
  EXPECT_EQ(Tandem("tokenize" + model + "'<｜User｜>'").out, "3\n");
  EXPECT_NE(Tandem("tokenize --plain" + model + "'<｜User｜>'").out, "3\n");
  ExpectError("tokenize --decode" + model + "2048", 2, {"2048", "2047"});
  ExpectError("tokenize --decode" + model + "abc", 2, {"abc"});
}

TEST_F(Cli, ChatTakesLinesFromAPipe) {
  const std::string chat =
      "chat --device none --temperature 0 --precision exact --max-tokens 8 --model " + kDemo;
  const Outcome two = Tandem(chat, "Who art thou?\nAnd thou?\n/quit\nunheard\n");
  ASSERT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(std::count(two.err.begin(), two.err.end(), '\n'), 2) << two.err;  // one line an answer
  const Outcome one = Tandem(chat, "Who art thou?\n");
  EXPECT_TRUE(two.out.starts_with(one.out)) << two.out << "---\n" << one.out;
  // After /clear the same words get the same answer: nothing is left in the cache.
  const Outcome cleared = Tandem(chat, "Who art thou?\n/clear\nWho art thou?\n");
  EXPECT_EQ(cleared.out, one.out + one.out);
  EXPECT_NE(Tandem(chat, "/help\n").out.find("/clear"), std::string::npos);
  EXPECT_EQ(two.out.find('\033'), std::string::npos);  // colours are for terminals
}

TEST_F(Cli, ChatNeedsChatTokens) {
  const std::string model = CopyModel();
  std::string tokenizer = test::ReadText(kDemo + "/tokenizer.json");
  for (const std::string token : {"<｜User｜>", "<｜Assistant｜>"}) {
    for (std::size_t at = tokenizer.find(token); at != std::string::npos;
         at = tokenizer.find(token)) {
      tokenizer.replace(at, token.size(), fmt::format("<{}-unused>", token.size()));
    }
  }
  std::ofstream(model + "/tokenizer.json") << tokenizer;
  ExpectError("chat --device none --model " + model, 65, {"chat tokens", "tandem run"});
}

TEST_F(Cli, BenchReportsPrefillDecodeAndBandwidth) {
  const Outcome got = Tandem(
      "bench --device none --prompt-tokens 8 --gen-tokens 4 --sequences 2 "
      "--repetitions 2 --output json --model " +
      kDemo);
  ASSERT_EQ(got.code, 0) << got.err;
  const Json json = Json::parse(got.out);
  for (const char* what : {"prefill_tokens_per_s", "decode_tokens_per_s",
                           "decode_host_weight_bytes_per_s", "read_bytes_per_s"}) {
    EXPECT_EQ(json[what]["values"].size(), 2U) << what;
    EXPECT_GT(json[what]["median"].get<double>(), 0) << what;
  }
  ExpectError("bench --device none --prompt-tokens 5000 --model " + kDemo, 2, {"5064", "4096"});
}

TEST_F(Cli, PlanPrintsWithoutLoading) {
  const std::string plan = "plan --device none --synthetic deepseek-v2-lite:layers=2:dtype=bf16";
  EXPECT_NE(Tandem(plan).out.find("routed experts"), std::string::npos);
  EXPECT_FALSE(Json::parse(Tandem(plan + " --output json").out).empty());
}

}  // namespace
}  // namespace tandem
