// ctest: unit
// Models in GGUF through the whole program, against the references of the same models as
// checkpoints.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "model/open_model.h"
#include "tests/support/gguf_model.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

using Json = nlohmann::json;

constexpr float kExactTolerance = 1e-3F;  // as golden_test has it: sums in another order
const std::string kDemo = TANDEM_SOURCE_DIR "/model/demo";

struct Case {
  const char* model;
  bool joint_kv_b;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model << (c.joint_kv_b ? ", joint kv_b" : "");
}

class GgufEngine : public testing::TestWithParam<Case> {};

TEST_P(GgufEngine, LogitsAreThoseOfTheReference) {
  const TempFolder folder;
  const std::string dir = GoldenDir(GetParam().model);
  const GgufBuilder gguf = GgufOf(OpenCheckpoint(dir), {.joint_kv_b = GetParam().joint_kv_b});
  const std::string file = folder.Write("model.gguf", gguf.Build()).string();
  const Golden golden = ReadGolden(dir);
  Engine engine = MakeEngine(file, Placement("none"), Precision::kExact);
  for (const std::int64_t chunk : {std::int64_t{256}, std::int64_t{1}}) {
    const std::int32_t s = engine.NewSequence();
    const Difference worst =
        WorstDifference(Prefill(engine, s, golden.prompt_ids, chunk), golden.logits);
    EXPECT_LE(worst.difference, kExactTolerance) << worst << ", chunk " << chunk;
    engine.FreeSequence(s);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GgufEngine,
                         testing::Values(Case{"deepseek", false}, Case{"v2-lite", false},
                                         Case{"v2", false}, Case{"v2", true}, Case{"v3", false},
                                         Case{"v3", true}));

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

// The demo model with its tokenizer, as one file.
class GgufCli : public testing::Test {
 protected:
  void Write(const std::string& pre = "deepseek-v3") {
    GgufBuilder gguf = GgufOf(OpenCheckpoint(kDemo));
    AddGgufTokenizer(gguf, ReadText(kDemo + "/tokenizer.json"), pre);
    file_ = folder_.Write("demo.gguf", gguf.Build() + behind_).string();
  }
  Outcome Tandem(const std::string& arguments) const {
    const std::string at = folder_.path().string();
    const std::string command = "OCL_ICD_VENDORS=" + at + " " TANDEM_BINARY " " + arguments +
                                " </dev/null >" + at + "/out 2>" + at + "/err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, ReadText(folder_ / "out"),
            ReadText(folder_ / "err")};
  }

  TempFolder folder_;
  std::string file_;
  std::string behind_;
};

TEST_F(GgufCli, RunsAsTheFolderDoes) {
  Write();
  const std::string flags =
      " --device none --temperature 0 --precision exact --max-tokens 24 --prompt 'ROMEO:'";
  const Outcome gguf = Tandem("run --model " + file_ + flags);
  EXPECT_EQ(gguf.code, 0) << gguf.err;
  EXPECT_EQ(gguf.out, Tandem("run --model " + kDemo + flags).out);
  EXPECT_GT(gguf.out.size(), 24u);
}

TEST_F(GgufCli, InspectTellsWhatTheFileIs) {
  Write();
  const Outcome text = Tandem("inspect --model " + file_);
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* words : {"A test model", "GGUF version 3", "'deepseek-v3' (known)",
                            "deepseek_v3: MLA", "deepseek-v3", "F32"}) {
    EXPECT_NE(text.out.find(words), std::string::npos) << words << " in " << text.out;
  }
  const Json json = Json::parse(Tandem("inspect --output json --model " + file_).out);
  EXPECT_EQ(json["gguf"]["pre_tokenizer"], "deepseek-v3");
  EXPECT_EQ(json["gguf"]["files"], 1);
  EXPECT_EQ(json["formats"]["routed"]["F32"], json["bytes"]["routed"]);
  EXPECT_EQ(json["chat_format"], "deepseek-v3");
}

TEST_F(GgufCli, PlanAndTokenizeTakeFiles) {
  Write();
  const Outcome plan = Tandem("plan --device none --model " + file_);
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_EQ(Tandem("tokenize --model " + file_ + " 'Before we proceed'").out,
            Tandem("tokenize --model " + kDemo + " 'Before we proceed'").out);
}

// A model whose tokenizer is of another kind is still of use with token ids.
TEST_F(GgufCli, AnUnknownPreTokenizerIsNamedWhereTextIsWanted) {
  Write("kimi-k2");
  for (const char* command : {"tokenize x", "run --device none --prompt x"}) {
    const std::string line = command;
    const std::size_t space = line.find(' ');
    const Outcome got = Tandem(line.substr(0, space) + " --model " + file_ + line.substr(space));
    EXPECT_EQ(got.code, 65) << got.err;
    EXPECT_NE(got.err.find("'kimi-k2'"), std::string::npos) << got.err;
  }
  const Outcome inspect = Tandem("inspect --model " + file_);
  EXPECT_EQ(inspect.code, 0) << inspect.err;
  EXPECT_NE(inspect.out.find("not known"), std::string::npos) << inspect.out;
  EXPECT_EQ(Tandem("plan --device none --model " + file_).code, 0);
  const std::string ids = folder_.Write("ids.json", "[5, 6, 7]").string();
  const Outcome logits = Tandem("logits --device none --model " + file_ + " --ids " + ids +
                                " --out " + (folder_ / "logits.safetensors").string());
  EXPECT_EQ(logits.code, 0) << logits.err;
}

TEST_F(GgufCli, F19BytesBehindTheEndAreAWarning) {
  behind_ = std::string(100, 'x');
  Write();
  const Outcome got = Tandem("inspect --model " + file_);
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.err.rfind("tandem: warning: ", 0), 0u) << got.err;
  EXPECT_NE(got.err.find("are not used"), std::string::npos) << got.err;
}

TEST_F(GgufCli, AnotherKindOfFileIsRefused) {
  const Outcome got = Tandem("inspect --model " + kDemo + "/model.safetensors");
  EXPECT_EQ(got.code, 65);
  EXPECT_NE(got.err.find("no GGUF file"), std::string::npos) << got.err;
}

}  // namespace
}  // namespace tandem::test
