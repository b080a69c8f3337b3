// ctest: unit
// Calibration of the demo model: what is counted, and what a plan made with it is worth on text
// that it has not seen.
#include "runtime/calibrate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "memory/error.h"
#include "model/tokenizer.h"
#include "placement/hit_rate.h"
#include "runtime/calibrate_progress.h"
#include "runtime/heat_map.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

std::vector<std::int32_t> Ids(const std::string& file, const Engine& engine) {
  const std::string text = ReadText(std::string(TANDEM_SOURCE_DIR) + "/tests/" + file);
  return ReadTokenizer(DemoDir(), engine.config().vocab_size).Encode(text);
}

CalibrationOptions Pieces(std::int64_t prompt, std::int64_t answer) {
  CalibrationOptions options;
  options.prompt_tokens = prompt;
  options.answer_tokens = answer;
  options.bos = 0;
  return options;
}

class CalibrateTest : public testing::Test {
 protected:
  CalibrateTest()
      : empty_(EmptyStatistics(OpenCheckpoint(DemoDir()))),
        engine_(MakeEngine(DemoDir(), Placement("none"), Precision::kFast)) {}

  Calibration Run(const std::vector<CalibrationText>& texts, const CalibrationOptions& options) {
    return Calibrate(engine_, empty_, texts, options);
  }

  RoutingStatistics empty_;
  Engine engine_;
};

TEST(CutText, PiecesOfPromptAndAnswerAndARest) {
  std::vector<std::int32_t> ids(25);
  std::iota(ids.begin(), ids.end(), 0);
  const auto pieces = CutText(ids, 6, 4);
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_EQ(pieces[1].prompt.front(), 10);
  EXPECT_EQ(pieces[1].prompt.size(), 6U);
  EXPECT_EQ(pieces[1].answer.front(), 16);
  EXPECT_EQ(pieces[2].prompt.size(), 3U);
  EXPECT_EQ(pieces[2].answer.size(), 2U);
  EXPECT_EQ(CutText(ids, 10, 0).back().prompt.size(), 5U);
  EXPECT_TRUE(CutText({}, 6, 4).empty());
}

// The planned set beside every other choice, on text that was not calibrated with. The calibration
// text surrounds four of the five pieces of plays that the validation text begins with, 8 KiB
// before and after each: over all of Shakespeare this model chooses evenly, within a play it does
// not.
void ExpectUseful(const RoutingStatistics& planned_with, const RoutingStatistics& unseen) {
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    const RoutingCounts counted = unseen.Total(phase);
    for (const int percent : {10, 25, 50}) {
      const std::int64_t n = ExpertsOfPercent(planned_with.experts, percent);
      const DeviceHitRates rates = HitRatesOfPlan(planned_with, phase, counted, n);
      const std::string line =
          fmt::format("{} {} %: planned {:.3f}, by id {:.3f}, uniform {:.3f}, hindsight {:.3f}",
                      phase == Phase::kPrefill ? "prefill" : "decode", percent, rates.planned,
                      rates.by_id, rates.uniform, rates.best_fixed);
      std::printf("%s\n", line.c_str());
      EXPECT_GT(rates.planned, rates.uniform) << line;
      EXPECT_GT(rates.planned, rates.by_id) << line;
      EXPECT_LE(rates.planned, rates.best_fixed) << line;
    }
  }
}

TEST_F(CalibrateTest, HotSetBeatsUniformOnUnseenText) {
  const auto train = Run({{"train", Ids("data/shakespeare-train.txt", engine_)}}, Pieces(380, 380));
  const auto unseen =
      Run({{"unseen", Ids("golden/shakespeare-val.txt", engine_)}}, Pieces(380, 380));
  EXPECT_FALSE(train.interrupted);
  EXPECT_EQ(train.tokens, train.total);
  ExpectUseful(train.statistics, unseen.statistics);
}

TEST_F(CalibrateTest, TheFileOfARealCalibrationIsValid) {
  auto ids = Ids("golden/shakespeare-val.txt", engine_);
  ids.resize(3 * 499);  // BOS is the 300th token of each prompt
  const RoutingStatistics s = Run({{"a", ids}, {"b", ids}}, Pieces(300, 200)).statistics;
  EXPECT_EQ(ToJson(ParseStatistics(ToJson(s), "s.json")), ToJson(s));
  const RoutingCounts& prefill = s.domains[0].phases[0];
  EXPECT_EQ(prefill.tokens, 3 * 300);
  EXPECT_EQ(s.domains[0].phases[1].tokens, 3 * 200);
  EXPECT_EQ(prefill.chunks, 3 * ((300 + engine_.plan().max_rows - 1) / engine_.plan().max_rows));
  EXPECT_TRUE(prefill.counts[0].empty()) << "layer 0 of the demo model is dense";
  EXPECT_EQ(std::accumulate(prefill.counts[1].begin(), prefill.counts[1].end(), 0U), 3 * 300 * 4U);
}

// What the header promises: answers in chunks route as answers token by token do.
TEST_F(CalibrateTest, AnswersInChunksRouteAsTokenByToken) {
  auto ids = Ids("golden/shakespeare-val.txt", engine_);
  ids.resize(200);
  Engine engine = MakeEngine(DemoDir(), Placement("none"), Precision::kExact);
  const CalibrationText text{"a", ids};
  const RoutingCounts counted =
      Calibrate(engine, empty_, {&text, 1}, Pieces(101, 100)).statistics.domains[0].phases[1];

  Recorder seen;
  const std::int32_t s = engine.NewSequence();
  ids.insert(ids.begin(), 0);
  Prefill(engine, s, {ids.begin(), ids.begin() + 101}, 64);
  for (std::size_t i = 101; i < ids.size(); ++i) {
    const Row row{s, static_cast<std::int32_t>(i), ids[i], true};
    engine.Step({&row, 1}, &seen);
  }
  for (const auto& [layer, chosen] : seen.experts) {
    std::vector<std::uint64_t> expected(32);
    for (const std::int32_t id : chosen) ++expected[static_cast<std::size_t>(id)];
    EXPECT_EQ(counted.counts[static_cast<std::size_t>(layer)], expected) << "layer " << layer;
  }
}

TEST_F(CalibrateTest, GeneratedAnswersAreDecodedOneByOneAndRepeat) {
  auto ids = Ids("golden/shakespeare-val.txt", engine_);
  ids.resize(126);
  CalibrationOptions options = Pieces(64, 64);
  options.generate = 12;
  options.sampler = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 7};
  const Calibration first = Run({{"a", ids}}, options);
  const RoutingCounts& decode = first.statistics.domains[0].phases[1];
  EXPECT_EQ(first.statistics.domains[0].phases[0].tokens, 128) << "all of the text is prompts";
  EXPECT_GT(decode.tokens, 0);
  EXPECT_LE(decode.tokens, 24);
  EXPECT_EQ(decode.chunk_uses, decode.counts);
  EXPECT_EQ(ToJson(Run({{"a", ids}}, options).statistics), ToJson(first.statistics));
}

TEST_F(CalibrateTest, AnInterruptKeepsWhatWasCounted) {
  const auto ids = Ids("golden/shakespeare-val.txt", engine_);
  int steps = 0;
  CalibrationOptions options = Pieces(256, 256);
  options.progress = [&](std::int64_t, std::int64_t) { ++steps; };
  options.interrupted = [&] { return steps == 3; };
  const Calibration cut = Run({{"a", ids}, {"b", ids}}, options);
  EXPECT_TRUE(cut.interrupted);
  EXPECT_LT(cut.tokens, cut.total);
  ASSERT_EQ(cut.statistics.domains.size(), 1U);
  const RoutingStatistics back = ParseStatistics(ToJson(cut.statistics), "s.json");
  EXPECT_EQ(back.domains[0].phases[0].tokens + back.domains[0].phases[1].tokens, cut.tokens);
  EXPECT_GT(cut.tokens, 0);
}

TEST_F(CalibrateTest, WhatCannotBeCountedIsRefusedAtOnce) {
  ExpectError<UsageError>(ExitCode::kUsage, {"a: the text is empty"}, [&] {
    Run({{"a", {}}}, Pieces(64, 64));
  });
  ExpectError<UsageError>(ExitCode::kUsage, {"5000 tokens", "--ctx", "--prompt-tokens"}, [&] {
    Run({{"a", {1, 2}}}, Pieces(4000, 1000));
  });
  Model dense = OpenCheckpoint(DemoDir());
  dense.config.n_routed_experts = 0;
  ExpectError<UsageError>(ExitCode::kUsage, {"no routed experts"}, [&] { EmptyStatistics(dense); });
}

std::size_t Occurrences(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    ++count;
  }
  return count;
}

TEST_F(CalibrateTest, HeatMapHasEveryCellAndEscapesNames) {
  auto ids = Ids("golden/shakespeare-val.txt", engine_);
  ids.resize(400);
  RoutingStatistics s = Run({{"<b>\x01\xff & co", ids}}, Pieces(200, 200)).statistics;
  s.model = "x</title><script>";
  for (const HeatMapOrder order : {HeatMapOrder::kHottestFirst, HeatMapOrder::kById}) {
    const std::string svg = HeatMapSvg(s, order);
    EXPECT_EQ(svg, HeatMapSvg(s, order));
    EXPECT_EQ(Occurrences(svg, "h24v22h-24z"), 2U * 4 * 32) << "phases x layers x experts";
    EXPECT_EQ(Occurrences(svg, "<script"), 0U);
    EXPECT_EQ(Occurrences(svg, "x&lt;/title&gt;&lt;script&gt;"), 2U) << "title and heading";
    EXPECT_EQ(Occurrences(svg, "&lt;b&gt; \xEF\xBF\xBD &amp; co"), 1U);
    EXPECT_EQ(Occurrences(svg, "<text"), Occurrences(svg, "</text>"));
    EXPECT_EQ(Occurrences(svg, "<svg") + Occurrences(svg, "</svg>"), 2U);
  }
  EXPECT_NE(HeatMapSvg(s, HeatMapOrder::kById), HeatMapSvg(s, HeatMapOrder::kHottestFirst));
}

TEST_F(CalibrateTest, AHeatMapOfNothingSaysSo) {
  EXPECT_EQ(Occurrences(HeatMapSvg(empty_, HeatMapOrder::kById), "nothing was counted"), 2U);
}

TEST(CalibrationLine, CountsRateAndTimeLeft) {
  EXPECT_EQ(CalibrationLine(0, 500, 0), "calibrating: 0 of 500 tokens");
  EXPECT_EQ(CalibrationLine(100, 500, 2), "calibrating: 100 of 500 tokens, 50 tokens/s, 8 s left");
}

// The `tandem calibrate` program. Exit code, standard output and standard error.
struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class CalibrateCommand : public testing::Test {
 protected:
  Outcome Tandem(const std::string& arguments) const {
    const std::string at = folder_.path().string();
    const std::string command = "cd " + at + " && XDG_CACHE_HOME=" + at +
                                " " TANDEM_BINARY " calibrate --model " + DemoDir() + " " +
                                arguments + " >out 2>err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            ReadText(folder_ / "out"), ReadText(folder_ / "err")};
  }
  static std::string TextFile() {
    return std::string(TANDEM_SOURCE_DIR) + "/tests/golden/shakespeare-val.txt";
  }
  TempFolder folder_;
};

TEST_F(CalibrateCommand, WritesStatisticsAndMapThenMergesAndTests) {
  const std::string pieces = " --prompt-tokens 128 --answer-tokens 128 --tokens 600 ";
  Outcome got = Tandem("--text a=" + TextFile() + pieces + "-o s.json --svg s.svg");
  ASSERT_EQ(got.code, 0) << got.err;
  EXPECT_NE(got.out.find("best fixed set"), std::string::npos) << got.out;
  EXPECT_TRUE(ReadText(folder_ / "s.svg").starts_with("<?xml"));

  got = Tandem("--text b=- --merge s.json -o s.json -q" + pieces + "--output json <" + TextFile());
  ASSERT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.err, "");
  const auto report = nlohmann::json::parse(got.out);
  EXPECT_EQ(report["texts"].size(), 2U);
  const RoutingStatistics s = ReadStatistics((folder_ / "s.json").string());
  ASSERT_EQ(s.domains.size(), 2U);
  EXPECT_EQ(s.domains[1].name, "b");
  EXPECT_EQ(s.domains[1].phases[1].counts, s.domains[0].phases[1].counts) << "the same text";

  got = Tandem("--text " + TextFile() + pieces + "--test s.json --output json");
  ASSERT_EQ(got.code, 0) << got.err;
  const auto tested = nlohmann::json::parse(got.out);
  for (const auto& row : tested["hit_rates"]) {
    EXPECT_EQ(row["planned"], row["hindsight"]) << "tested on the text that it was made with";
  }
}

TEST_F(CalibrateCommand, WrongUseIsRefusedBeforeTheModelIsLoaded) {
  const std::string text = "--text " + TextFile();
  EXPECT_EQ(Tandem(text).code, 2) << "neither -o nor --test";
  EXPECT_EQ(Tandem(text + " " + text + " -o s.json").code, 2) << "the same name twice";
  EXPECT_EQ(Tandem("--text absent.txt -o s.json").code, 66);
  EXPECT_EQ(Tandem(text + " -o no/such/folder.json").code, 66);
  EXPECT_EQ(Tandem(text + " -o s.json --merge absent.json").code, 66);
  folder_.Write("bad.json", "{");
  const Outcome damaged = Tandem(text + " --test bad.json");
  EXPECT_EQ(damaged.code, 65);
  EXPECT_NE(damaged.err.find("bad.json"), std::string::npos) << damaged.err;
  RoutingStatistics other = EmptyStatistics(OpenCheckpoint(DemoDir()));
  other.fingerprint = "0000000000000000";
  WriteStatistics(other, (folder_ / "other.json").string());
  const Outcome refused = Tandem(text + " -o s.json --merge other.json");
  EXPECT_EQ(refused.code, 78);
  EXPECT_NE(refused.err.find("0000000000000000"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace tandem::test
