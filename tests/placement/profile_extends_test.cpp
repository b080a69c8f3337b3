// ctest: unit
// What a profile inherits, and what stands above it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "invented.h"
#include "memory/error.h"
#include "placement/profile.h"
#include "placement/profile_files.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class Extends : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    return folder_.Write(name, text).string();
  }
  test::TempFolder folder_;
};

TEST_F(Extends, MapsMergeListsReplaceRulesFollow) {
  Write("base/b.yaml",
        "device: 0\n"
        "memory: {devices: {0: 2 GiB, 1: {reserve: 1 GiB}}}\n"
        "workload: {context: 8192, sequences: 2}\n"
        "placement: {experts_order: [1, 2], routed_experts: {share: 0.5}, "
        "experts: {statistics: s.json}}\n"
        "rules: [{role: head, place: device}]\n");
  const Profile p = ReadProfile(Write("p.yaml",
                                      "extends: base/b.yaml\n"
                                      "memory: {devices: {1: 4 GiB}, host: 8 GiB}\n"
                                      "workload: {sequences: 3}\n"
                                      "placement: {experts_order: [3], routed_experts: "
                                      "{bytes: 1 GiB}}\n"
                                      "rules: [{role: head, place: host}]\n"));
  EXPECT_EQ(p.device, "0");
  EXPECT_EQ(p.device_budgets.at("0").bytes, 2 * test::kGiB);
  EXPECT_EQ(p.device_budgets.at("1").bytes, 4 * test::kGiB);
  EXPECT_FALSE(p.device_budgets.at("1").reserve);
  EXPECT_EQ(p.host_memory_bytes, 8 * test::kGiB);
  EXPECT_EQ(p.context, 8192);
  EXPECT_EQ(p.max_sequences, 3);
  EXPECT_EQ(p.experts_order, std::vector<int>{3});
  EXPECT_EQ(p.experts, Profile::Experts::kBytes);
  EXPECT_EQ(p.statistics, (folder_ / "base/s.json").string());
  ASSERT_EQ(p.rules.size(), 2U);
  EXPECT_EQ(p.rules[0].place, Side::kDevice);
  EXPECT_EQ(p.rules[1].place, Side::kHost);
  EXPECT_THAT(p.origins.at("workload.context"), EndsWith("base/b.yaml:3:21"));
  EXPECT_THAT(p.origins.at("workload.sequences"), EndsWith("p.yaml:3:23"));
  EXPECT_THAT(p.origins.at("rules"), AllOf(HasSubstr("b.yaml:5:8, "), EndsWith("p.yaml:5:8")));
}

// What is not of the same kind replaces: a number of threads, threads by node, auto.
TEST_F(Extends, AutoTakesBackWhatWasSaid) {
  Write("b.yaml", "threads: {0: 3, 1: 4}\nkv: {type: f32}\nworkload: {for: long, chunk: 64}\n");
  const Profile p = ReadProfile(Write("p.yaml",
                                      "extends: b.yaml\nthreads: 5\nkv: {type: auto}\n"
                                      "workload: {for: any, chunk: auto}\n"));
  EXPECT_EQ(p.threads, 5);
  EXPECT_TRUE(p.node_threads.empty());
  EXPECT_FALSE(p.kv_type);
  EXPECT_FALSE(p.chunk);
  EXPECT_EQ(p.context, 4096);
  const Profile again = ReadProfile(Write("q.yaml", "extends: p.yaml\nthreads: {1: 2}\n"));
  EXPECT_FALSE(again.threads);
  EXPECT_EQ(again.node_threads, (std::map<int, int>{{1, 2}}));
}

TEST_F(Extends, ShippedProfilesAreNamed) {
  const Profile p = ReadProfile(Write("p.yaml", "extends: none\nthreads: 1\n"));
  EXPECT_EQ(p.device, "none");
  EXPECT_EQ(p.origins.at("device"), "profiles/none.yaml:3:9");
  EXPECT_EQ(ReadProfile("none").device, "none");
  // A file of that name is meant before the shipped one.
  Write("none.yaml", "device: 7\n");
  EXPECT_EQ(ReadProfile(Write("q.yaml", "extends: none.yaml\n")).device, "7");
}

TEST_F(Extends, WrongChainsAreRefused) {
  const auto fault = [&](const std::string& file, ExitCode code) {
    return test::Refusal([&] { ReadProfile(file); }, code);
  };
  Write("a.yaml", "extends: b.yaml\n");
  const std::string b = Write("b.yaml", "device: none\nextends: ./a.yaml\n");
  EXPECT_THAT(fault(b, ExitCode::kConfig), AllOf(HasSubstr("a.yaml:1:10"), HasSubstr("itself")));
  const std::string self = Write("self.yaml", "extends: self.yaml\n");
  EXPECT_THAT(fault(self, ExitCode::kConfig), HasSubstr("itself"));
  const std::string gone = Write("gone.yaml", "extends: gpu-24\n");
  EXPECT_THAT(fault(gone, ExitCode::kMissingFile),
              AllOf(HasSubstr("gone.yaml:1:10: 'extends'"), HasSubstr("did you mean 'gpu-24g'?")));
  EXPECT_THAT(fault(Write("folder.yaml", "extends: .\n"), ExitCode::kIo),
              HasSubstr("no regular file"));
  EXPECT_THAT(fault(Write("zero.yaml", "extends: /dev/zero\n"), ExitCode::kIo),
              HasSubstr("no regular file"));
  Write("bad.yaml", "threads: none\n");
  // Even if what stands above replaces it.
  EXPECT_THAT(fault(Write("above.yaml", "extends: bad.yaml\nthreads: 3\n"), ExitCode::kConfig),
              HasSubstr("bad.yaml:1:10"));
  Write("0.yaml", "device: none\n");
  for (int i = 1; i < 12; ++i) {
    Write(fmt::format("{}.yaml", i), fmt::format("extends: {}.yaml\n", i - 1));
  }
  EXPECT_EQ(ReadProfile((folder_ / "7.yaml").string()).device, "none");  // eight files
  EXPECT_THAT(fault((folder_ / "8.yaml").string(), ExitCode::kConfig), HasSubstr("more than 8"));
}

TEST_F(Extends, FlagsAndVariablesStandAbove) {
  const std::string file = Write("p.yaml",
                                 "workload: {context: 8192, for: batch}\n"
                                 "rules: [{role: head, place: device}]\n"
                                 "memory: {devices: {0: 1 GiB}}\n");
  const std::vector<GivenSetting> given = {
      {"workload.context", "9000", "TANDEM_WORKLOAD_CONTEXT"},
      {"memory.devices", "{1: 2 GiB}", "TANDEM_MEMORY_DEVICES"},
      {"workload.context", "10000", "--ctx"},
      {"workload.for", "chat", "--for"},
      {"rules", "[{role: head, place: host}]", "--rules"},
      {"device", "0,1", "--device"}};
  const Profile p = ResolveProfile(file, given);
  EXPECT_EQ(p.context, 10000);
  EXPECT_EQ(p.origins.at("workload.context"), "--ctx");
  EXPECT_EQ(p.max_sequences, 4);
  EXPECT_EQ(p.origins.at("workload.sequences"), "workload.for: chat (--for)");
  EXPECT_EQ(p.rules.size(), 2U);
  EXPECT_EQ(p.device_budgets.size(), 2U);
  EXPECT_EQ(p.device, "0,1");
}

TEST_F(Extends, FlagsAndVariablesAreCheckedAsFilesAre) {
  const auto fault = [](const GivenSetting& given, ExitCode code) {
    return test::Refusal([&] { ResolveProfile("", {&given, 1}); }, code);
  };
  EXPECT_EQ(fault({"workload.context", "many", "--ctx"}, ExitCode::kUsage),
            "--ctx: 'workload.context': expected a whole number from 1 to 16777216, found 'many'");
  EXPECT_EQ(fault({"kv.type", "f61", "TANDEM_KV_TYPE"}, ExitCode::kConfig),
            "TANDEM_KV_TYPE: 'kv.type': expected auto, f32, bf16, f16, q8_0, f8 (perhaps 'f16'), found "
            "'f61'");
  EXPECT_THAT(fault({"rules", "[{rol: head, place: host}]", "--rules"}, ExitCode::kUsage),
              HasSubstr("--rules:1:3: 'rol': unknown key (did you mean 'role'?)"));
  EXPECT_THAT(
      fault({"workload.prompt_tokens", "5000", "--workload-prompt-tokens"}, ExitCode::kConfig),
      HasSubstr("4096 tokens do not hold one request of 5000 + 256"));
}

TEST_F(Extends, AdaptingDropsWhatWasMeasured) {
  Profile p = ResolveProfile(
      Write("p.yaml",
            "threads: 99\nworkload: {context: 6000, chunk: 64}\nplacement: {head: host, "
            "experts_order: [1]}\nmade_for: {machine: aa, model: bb}\nmemory: {host: 5 GiB}\n"),
      std::vector<GivenSetting>{{"memory.host", "6 GiB", "--memory-host"}});
  Profile machine = p;
  EXPECT_EQ(AdaptProfile(machine, true, false),
            (std::vector<std::string>{"threads", "workload.chunk", "placement.head",
                                      "made_for.machine"}));
  EXPECT_FALSE(machine.threads);
  EXPECT_FALSE(machine.chunk);
  EXPECT_EQ(machine.head, Side::kAuto);
  EXPECT_EQ(machine.context, 6000);
  EXPECT_EQ(machine.experts_order, std::vector<int>{1});
  EXPECT_EQ(machine.host_memory_bytes, 6 * test::kGiB);
  Profile model = p;
  AdaptProfile(model, false, true);
  EXPECT_EQ(model.threads, 99);
  EXPECT_TRUE(model.experts_order.empty());
  EXPECT_EQ(model.model_fingerprint, "");
  EXPECT_EQ(model.machine_fingerprint, "aa");
}

}  // namespace
}  // namespace tandem
