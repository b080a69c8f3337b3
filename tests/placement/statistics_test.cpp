// ctest: unit
// The file of routing statistics: kept exactly, checked wholly, merged and matched to its model.
#include "placement/statistics.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "memory/error.h"
#include "placement/statistics_counter.h"
#include "tests/placement/invented.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using Json = nlohmann::json;
using test::ExpectBadData;
using test::ExpectError;

constexpr const char* kFile = "stats.json";

// Two layers, the first dense, 2 of 4 experts.
RoutingCounts Counted(Phase phase, const std::vector<std::vector<std::int32_t>>& steps) {
  StatisticsCounter counter(phase, 2, 4, 2);
  for (const auto& ids : steps) {
    counter.Add(1, ids);
    counter.EndStep(std::ssize(ids) / 2);
  }
  return counter.counts();
}

RoutingStatistics Small() {
  RoutingStatistics s;
  s.model = "a \"model\"\n";
  s.fingerprint = "0123456789abcdef";
  s.layers = 2;
  s.experts = 4;
  s.experts_per_token = 2;
  s.domains = {{.name = "prose",
                .phases = {Counted(Phase::kPrefill, {{0, 1, 1, 2}, {1, 0}}),
                           Counted(Phase::kDecode, {{3, 1}})}},
               {.name = "code", .phases = {Counted(Phase::kPrefill, {{2, 3}}), {}}}};
  return s;
}

TEST(Statistics, RoundTripIsExact) {
  const std::string json = ToJson(Small());
  const RoutingStatistics back = ParseStatistics(json, kFile);
  EXPECT_EQ(ToJson(back), json);
  EXPECT_EQ(back.model, Small().model);
  EXPECT_EQ(back.domains[0].phases[0].counts, Small().domains[0].phases[0].counts);
  EXPECT_EQ(back.domains[0].phases[0].chunks, 2);
  EXPECT_EQ(back.domains[1].phases[1].tokens, 0);
}

TEST(Statistics, FilesAreWrittenWholeAndReadBack) {
  const test::TempFolder folder;
  const std::string file = (folder / "stats.json").string();
  WriteStatistics(Small(), file);
  EXPECT_EQ(ToJson(ReadStatistics(file)), ToJson(Small()));
  ExpectError<SystemError>(ExitCode::kMissingFile, {"absent.json"},
                           [&] { ReadStatistics((folder / "absent.json").string()); });
  ExpectError<SystemError>(ExitCode::kMissingFile, {"no/stats.json"},
                           [&] { WriteStatistics(Small(), (folder / "no/stats.json").string()); });
}

TEST(Statistics, DistancesAndRanksOfAStreamByHand) {
  // Tokens {0,1}, {1,2}, {1,0}: the strongest of a token is its latest used.
  const RoutingCounts c = Counted(Phase::kPrefill, {{0, 1, 1, 2}, {1, 0}});
  EXPECT_EQ(c.tokens, 3);
  EXPECT_EQ(c.counts[1], (std::vector<std::uint64_t>{2, 3, 1, 0}));
  // First uses: 0, 1, 2. Then 1 after 0 (distance 1); 1 at once (0), and 0 after 1 and 2 (2).
  EXPECT_EQ(c.distances[1], (std::vector<std::uint64_t>{1, 1, 1, 0, 3}));
  // 1 stands behind 0, which was the later used one (rank 1); then 1 has two uses (0), and 0
  // stands behind 1 and the later used 2 (2).
  EXPECT_EQ(c.ranks[1], (std::vector<std::uint64_t>{1, 1, 1, 0, 3}));
  EXPECT_TRUE(c.counts[0].empty()) << "layer 0 is dense";
}

TEST(Statistics, SharesSumToOneAndFallBack) {
  const RoutingStatistics s = Small();
  EXPECT_EQ(s.Shares(Phase::kPrefill, 1), (std::vector<double>{0.25, 0.375, 0.25, 0.125}));
  EXPECT_EQ(s.Shares(Phase::kDecode, 1), (std::vector<double>{0, 0.5, 0, 0.5}));
  EXPECT_EQ(s.Shares(Phase::kDecode, 0), std::vector<double>(4, 0.25)) << "never counted: uniform";
  RoutingStatistics no_decode = s;
  no_decode.domains[0].phases[1] = {};
  EXPECT_EQ(no_decode.Shares(Phase::kDecode, 1), s.Shares(Phase::kPrefill, 1));
}

TEST(Statistics, MergeAddsDomainByDomain) {
  RoutingStatistics into = Small();
  RoutingStatistics from = Small();
  from.domains[1].name = "letters";
  Merge(into, from);
  ASSERT_EQ(into.domains.size(), 3U);
  EXPECT_EQ(into.domains[0].phases[0].tokens, 6);
  EXPECT_EQ(into.domains[0].phases[0].chunks, 4);
  EXPECT_EQ(into.domains[0].phases[0].counts[1], (std::vector<std::uint64_t>{4, 6, 2, 0}));
  EXPECT_EQ(into.domains[2].name, "letters");
  EXPECT_EQ(into.domains[2].phases[0].counts, Small().domains[1].phases[0].counts);
  EXPECT_EQ(ToJson(ParseStatistics(ToJson(into), kFile)), ToJson(into)) << "still valid";
  EXPECT_EQ(into.Total(Phase::kPrefill).tokens, 8);
}

TEST(Statistics, MergeDropsWhatOneSideDidNotRecord) {
  RoutingStatistics into = Small();
  RoutingStatistics from = Small();
  from.domains[0].phases[0].ranks.clear();
  Merge(into, from);
  EXPECT_TRUE(into.domains[0].phases[0].ranks.empty());
  EXPECT_FALSE(into.domains[0].phases[0].distances.empty());
  EXPECT_EQ(ToJson(ParseStatistics(ToJson(into), kFile)), ToJson(into));
}

TEST(Statistics, MergeRefusesAnotherModel) {
  RoutingStatistics into = Small();
  RoutingStatistics from = Small();
  from.fingerprint = "ffffffffffffffff";
  ExpectError<ConfigError>(ExitCode::kConfig,
                           {"ffffffffffffffff", "0123456789abcdef", "two models"},
                           [&] { Merge(into, from); });
}

TEST(Statistics, MergeRefusesOtherLayers) {
  RoutingStatistics into = Small();
  RoutingStatistics from = Small();
  for (auto* lists : {&from.domains[0].phases[0].counts, &from.domains[0].phases[0].distances,
                      &from.domains[0].phases[0].ranks, &from.domains[0].phases[0].chunk_uses}) {
    std::swap((*lists)[0], (*lists)[1]);
  }
  ExpectError<ConfigError>(ExitCode::kConfig, {"prose", "other layers"},
                           [&] { Merge(into, from); });
}

TensorList Tensors(const Config& config) { return ExpectedTensors(config, DType::kBF16); }

TEST(Statistics, FingerprintsTellModelsApart) {
  const Config config = test::Tiny();
  const TensorList tensors = Tensors(config);
  const std::string mine = ModelFingerprint(config, tensors);
  EXPECT_EQ(mine.size(), 16U);
  EXPECT_EQ(mine, ModelFingerprint(test::Tiny(), Tensors(test::Tiny()))) << "a pure function";
  EXPECT_NE(mine, ModelFingerprint(config, ExpectedTensors(config, DType::kF8E4M3)));
  Config other = config;
  other.routed_scaling_factor = 2.5;
  EXPECT_NE(mine, ModelFingerprint(other, tensors));
  other = config;
  other.n_routed_experts = 16;
  EXPECT_NE(mine, ModelFingerprint(other, Tensors(other)));
}

TEST(Statistics, CheckNamesBothModelsAndTheWayOut) {
  const Config config = test::Tiny();
  const TensorList tensors = Tensors(config);
  RoutingStatistics s = Small();
  ExpectError<ConfigError>(
      ExitCode::kConfig,
      {kFile, "2 of 4 experts", "of 32 experts", "0123456789abcdef", "tandem calibrate"},
      [&] { CheckStatistics(s, config, tensors, kFile); });
  s.fingerprint = ModelFingerprint(config, tensors);
  s.layers = config.num_hidden_layers;
  s.experts = config.n_routed_experts;
  s.experts_per_token = config.num_experts_per_tok;
  CheckStatistics(s, config, tensors, kFile);
}

// A change to a good file, and the words of its refusal.
struct Damage {
  const char* pointer;
  Json value;
  std::vector<const char*> words;
};

TEST(Statistics, DamagedFilesAreRefusedByField) {
  const std::vector<Damage> damages = {
      {"/format", "something else", {"format", "tandem calibrate"}},
      {"/version", 2, {"version", "newer version of tandem"}},
      {"/version", "1", {"version", "expected 1"}},
      {"/layers", 0, {"layers", "1 to 1000"}},
      {"/layers", 3, {"domains[0].prefill.counts", "3 layers"}},
      {"/experts", 2000, {"experts", "1 to 1024", "2000"}},
      {"/experts_per_token", 5, {"experts_per_token", "1 to 4"}},
      {"/experts_per_token", 1, {"domains[0].prefill.counts[1]"}},
      {"/fingerprint", "0123456789ABCDEF", {"fingerprint", "16 hexadecimal"}},
      {"/model", 3, {"model", "expected a text"}},
      {"/typo", 1, {"\"typo\"", "unknown field"}},
      {"/domains", Json::object(), {"domains", "expected a list"}},
      {"/domains/1/name", "prose", {"domains[1].name", "earlier domain"}},
      {"/domains/0/decode", nullptr, {"domains[0].decode", "expected an object"}},
      {"/domains/0/prefill/tokens", -1, {"tokens", "-1"}},
      {"/domains/0/prefill/tokens", 1e300, {"tokens"}},
      {"/domains/0/prefill/tokens", 4, {"counts[1]", "expected a sum of 8"}},
      {"/domains/0/prefill/chunks", 4, {"chunks", "0 to 3"}},
      {"/domains/0/prefill/chunks", 1, {"chunk_uses[1]", "at most 1"}},
      {"/domains/0/prefill/counts/1/2", -1, {"counts[1][2]", "-1"}},
      {"/domains/0/prefill/counts/1/2", 1.5, {"counts[1][2]", "1.5"}},
      {"/domains/0/prefill/counts/1/2", UINT64_MAX, {"counts[1][2]", "more than"}},
      {"/domains/0/prefill/counts/1", {1, 2}, {"counts[1]", "4 numbers"}},
      {"/domains/0/prefill/counts/0", {6, 0, 0, 0}, {"distances[0]", "as counts has it"}},
      {"/domains/0/prefill/distances/1/0", 9, {"distances[1]"}},
      {"/domains/0/prefill/ranks/1", Json::array(), {"ranks[1]", "as counts has it"}},
      {"/domains/0/prefill/chunk_uses/1", Json::array(), {"chunk_uses[1]", "4 numbers"}},
  };
  const Json good = Json::parse(ToJson(Small()));
  for (const Damage& damage : damages) {
    SCOPED_TRACE(damage.pointer);
    Json bad = good;
    bad[Json::json_pointer(damage.pointer)] = damage.value;
    ExpectBadData({kFile}, [&] { ParseStatistics(bad.dump(), kFile); });
    for (const char* word : damage.words) {
      ExpectBadData({word}, [&] { ParseStatistics(bad.dump(), kFile); });
    }
  }
}

TEST(Statistics, EveryFieldIsNeeded) {
  const Json good = Json::parse(ToJson(Small()));
  for (const char* object : {"", "/domains/0", "/domains/0/decode"}) {
    const Json fields = good[Json::json_pointer(object)];
    for (const auto& [name, value] : fields.items()) {
      Json bad = good;
      bad[Json::json_pointer(object)].erase(name);
      ExpectBadData({kFile, name}, [&] { ParseStatistics(bad.dump(), kFile); });
    }
  }
}

TEST(Statistics, BrokenJsonIsRefused) {
  const std::string good = ToJson(Small());
  ExpectBadData({kFile, "not valid JSON"}, [&] { ParseStatistics("", kFile); });
  ExpectBadData({kFile}, [&] { ParseStatistics(good.substr(0, good.size() / 2), kFile); });
  ExpectBadData({"format", "given twice"},
                [&] { ParseStatistics("{\"format\": 1, " + good.substr(1), kFile); });
  ExpectBadData({"nested deeper"}, [&] { ParseStatistics(std::string(100000, '['), kFile); });
  ExpectBadData({"expected at most"},
                [&] { ParseStatistics(std::string((std::size_t{64} << 20) + 1, ' '), kFile); });
}

TEST(Statistics, NamesThatAreNoUtf8AreStillWritten) {
  RoutingStatistics s = Small();
  s.domains[0].name = "\xff\xfe";
  EXPECT_EQ(ParseStatistics(ToJson(s), kFile).domains[0].name, "\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace tandem
