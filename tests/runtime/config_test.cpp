// ctest: unit
// `tandem config`, and that settings come the same way from files, variables and flags.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "placement/settings.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using Json = nlohmann::json;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class ConfigCommand : public testing::Test {
 protected:
  // The arguments are shell words; `variables` stand before the command.
  Outcome Tandem(const std::string& arguments, const std::string& variables = "") const {
    const std::string at = folder_.path().string();
    const std::string command =
        "cd " + at + " && " + variables + " " TANDEM_BINARY " " + arguments + " >out 2>err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            test::ReadText(folder_ / "out"), test::ReadText(folder_ / "err")};
  }
  Json Show(const std::string& arguments, const std::string& variables = "") const {
    const Outcome got = Tandem("config show --output json " + arguments, variables);
    EXPECT_EQ(got.code, 0) << got.err;
    return Json::parse(got.out);
  }
  void ExpectError(const std::string& arguments, const std::string& variables, int code,
                   const std::string& text) const {
    const Outcome got = Tandem(arguments, variables);
    EXPECT_EQ(got.code, code) << got.err;
    EXPECT_EQ(got.err.rfind("tandem: error: ", 0), 0U) << got.err;
    EXPECT_NE(got.err.find(text), std::string::npos) << "no '" << text << "' in " << got.err;
  }

  test::TempFolder folder_;
};

TEST_F(ConfigCommand, SchemaIsTheCommittedOne) {
  EXPECT_EQ(Tandem("config schema").out, test::ReadText(TANDEM_SOURCE_DIR "/profiles/schema.json"));
}

TEST_F(ConfigCommand, ShowTellsOrigins) {
  folder_.Write("p.yaml", "workload:\n  for: agent\n  sequences: 1\n");
  const Json json =
      Show("--profile p.yaml --ctx 40000 --rules '[{role: head, place: host}]'",
           "TANDEM_WORKLOAD_CONTEXT=50000 TANDEM_WORKLOAD_ANSWER_TOKENS=7 TANDEM_DEVICE=none");
  const auto is = [&](const char* path, const Json& value, const char* origin) {
    EXPECT_EQ(json[path]["value"], value) << path;
    EXPECT_EQ(json[path]["origin"], origin) << path;
  };
  is("workload.context", 40000, "--ctx");
  is("workload.answer_tokens", 7, "TANDEM_WORKLOAD_ANSWER_TOKENS");
  is("workload.sequences", 1, "p.yaml:3:14");
  is("workload.prompt_tokens", 8192, "workload.for: agent (p.yaml:2:8)");
  is("device", "none", "TANDEM_DEVICE");
  is("kv.type", "auto", "default");
  is("rules", Json::parse(R"([{"role": "head", "place": "host"}])"), "--rules");
  const std::string text = Tandem("config show --origin --profile p.yaml").out;
  EXPECT_NE(text.find("p.yaml:3:14\n"), std::string::npos) << text;
  EXPECT_EQ(Tandem("config show --profile p.yaml").out.find("p.yaml"), std::string::npos);
  EXPECT_EQ(Show("", "TANDEM_PROFILE=p.yaml")["workload.sequences"]["value"], 1);
  EXPECT_EQ(Show("--profile gpu-24g")["memory.device"]["value"], "22 GiB");
}

// One value of each setting, as the README's examples have it.
constexpr std::pair<const char*, const char*> kValues[] = {
    {"device", "[0, NVIDIA]"},
    {"memory.device", "22 GiB"},
    {"memory.host", "200 GiB"},
    {"memory.devices", "{0: {reserve: 2 GiB}}"},
    {"memory.nodes", "{0: 96 GiB}"},
    {"threads", "{0: 30, 1: 28}"},
    {"device_threads", "2"},
    {"hand_over", "events"},
    {"deferral", "on"},
    {"step_ahead", "on"},
    {"workload.for", "batch"},
    {"workload.context", "9000"},
    {"workload.least_context", "100"},
    {"workload.sequences", "3"},
    {"workload.prompt_tokens", "300"},
    {"workload.answer_tokens", "200"},
    {"workload.chunk", "128"},
    {"activations.type", "bf16"},
    {"activations.device", "f8"},
    {"kv.type", "bf16"},
    {"kv.place", "host"},
    {"placement.attention", "device"},
    {"placement.dense", "host"},
    {"placement.shared_experts", "device"},
    {"placement.router", "host"},
    {"placement.head", "device"},
    {"placement.routed_experts", "{share: 0.25}"},
    {"placement.experts.policy", "hot"},
    {"placement.experts.statistics", "stats.json"},
    {"placement.experts_order", "[7, 0, 12]"},
    {"placement.layers", "[1, 30]"},
    {"placement.prefill_experts", "stream"},
    {"placement.stream_memory", "ring"},
    {"placement.expert_cache", "2 GiB"},
    {"rules", "[{layers: [3, 10], place: host}]"}};

TEST_F(ConfigCommand, EverySettingIsKeyFlagAndVariable) {
  const Json defaults = Show("");
  std::string flags;
  std::string variables;
  for (const auto& [path, value] : kValues) {
    const Setting& setting = *FindSetting(path);
    flags += FlagOf(setting) + " '" + value + "' ";
    variables += VariableOf(setting) + "='" + value + "' ";
  }
  const Json by_flag = Show(flags);
  const Json by_variable = Show("", variables);
  std::size_t told = 0;
  for (const Setting& setting : Settings()) {
    if (setting.file_only) continue;
    const std::string path(setting.path);
    ++told;
    EXPECT_NE(by_flag[path]["value"], defaults[path]["value"]) << path;
    EXPECT_EQ(by_flag[path]["value"], by_variable[path]["value"]) << path;
    EXPECT_EQ(by_flag[path]["origin"],
              setting.alias.empty() ? FlagOf(setting) : std::string(setting.alias));
    EXPECT_EQ(by_variable[path]["origin"], VariableOf(setting));
  }
  EXPECT_EQ(told, std::size(kValues));
}

TEST_F(ConfigCommand, MistakesAreNamed) {
  ExpectError("config show --ctx x", "", 2, "--ctx: 'workload.context': expected a whole number");
  ExpectError("config show --for chatt", "", 2, "perhaps 'chat'");
  ExpectError("config show --placement-haed host", "", 2, "did you mean '--placement-head'?");
  ExpectError("config show", "TANDEM_KV_TYPE=f61", 78, "TANDEM_KV_TYPE: 'kv.type'");
  ExpectError("config show", "TANDEM_WORKLOAD_CONTXT=1", 78, "TANDEM_WORKLOAD_CONTEXT");
  ExpectError("config show --profile gpu-24", "", 66, "did you mean 'gpu-24g'?");
  ExpectError("config", "", 2, "tandem config --help");
  folder_.Write("p.yaml", "kv: {tpye: f16}\n");
  ExpectError("config show --profile p.yaml", "", 78,
              "p.yaml:1:6: 'tpye': unknown key (did you mean 'type'?)");
}

}  // namespace
}  // namespace tandem
