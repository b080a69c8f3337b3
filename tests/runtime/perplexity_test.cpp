// ctest: unit
#include "runtime/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "memory/error.h"
#include "model/tokenizer.h"
#include "runtime/prompt.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kText = std::string(TANDEM_SOURCE_DIR) + "/tests/golden/shakespeare-val.txt";

std::vector<std::int32_t> Count(std::int32_t n) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 1);
  return ids;
}

TEST(Windows, EachBeginsWithBosAndAPieceOfTheText) {
  EXPECT_THAT(CutWindows(Count(8), 4, 0),
              ElementsAre(ElementsAre(0, 1, 2, 3), ElementsAre(0, 5, 6, 7)));
  EXPECT_THAT(CutWindows(Count(7), 4, std::nullopt), ElementsAre(ElementsAre(1, 2, 3, 4)));
  EXPECT_THAT(CutWindows(Count(6), 4, 0), ElementsAre(ElementsAre(0, 1, 2, 3)));
  EXPECT_THAT(CutWindows(Count(2), 4, 0), ElementsAre(ElementsAre(0, 1, 2)))
      << "a short text is one window";
  EXPECT_EQ(Predictions(CutWindows(Count(8), 4, 0)), 6);
  EXPECT_EQ(Predictions(CutWindows({}, 4, 0)), 0);
}

TEST(LogProbabilities, AddUpToOneAtAnyOffset) {
  for (const float offset : {0.0F, 1000.0F, -1000.0F}) {
    const std::vector<float> logits = {offset + 1, offset, offset - 3};
    std::vector<double> p(3);
    LogProbabilities(logits, p);
    const double sum = std::exp(1.0) + 1 + std::exp(-3.0);
    EXPECT_NEAR(p[0], 1 - std::log(sum), 1e-12);
    EXPECT_NEAR(std::exp(p[0]) + std::exp(p[1]) + std::exp(p[2]), 1, 1e-12);
  }
}

TEST(Likelihood, MeanAndErrors) {
  LikelihoodSum sum;
  for (const double nll : {1.0, 2.0, 3.0, 6.0}) sum.Add(-nll);
  const Likelihood l = sum.Result();
  EXPECT_EQ(l.tokens, 4);
  EXPECT_DOUBLE_EQ(l.nll, 3);
  EXPECT_NEAR(l.nll_error, std::sqrt(14.0 / 3 / 4), 1e-12);
  EXPECT_NEAR(l.perplexity(), std::exp(3.0), 1e-12);
  EXPECT_NEAR(l.perplexity_error(), std::exp(3.0) * l.nll_error, 1e-12);
}

TEST(Divergence, OfTwoDistributionsAndOfTheSame) {
  const std::vector<double> p = {std::log(0.5), std::log(0.25), std::log(0.25)};
  const std::vector<double> q = {std::log(0.25), std::log(0.5), std::log(0.25)};
  DivergenceSum sum;
  for (int i = 0; i < 98; ++i) sum.Add(p, p);
  sum.Add(p, q);
  sum.Add(q, p);
  const Divergence d = sum.Result();
  const double one = 0.25 * std::log(2.0);
  EXPECT_NEAR(d.mean, 2 * one / 100, 1e-12);
  EXPECT_NEAR(d.highest, one, 1e-12);
  EXPECT_NEAR(d.p99, one, 1e-12) << "the 99th of 100 in order";
  EXPECT_DOUBLE_EQ(d.same_top, 0.98);
  EXPECT_GT(d.error, 0);
}

TEST(Divergence, ImpossibleTokensOfTheReferenceCountNothing) {
  const std::vector<double> p = {0, -INFINITY};
  const std::vector<double> q = {std::log(0.5), std::log(0.5)};
  DivergenceSum sum;
  sum.Add(p, q);
  EXPECT_NEAR(sum.Result().mean, std::log(2.0), 1e-12);
}

double GoldenNll() {
  std::ifstream file(DemoDir() + "/golden.json");
  return nlohmann::json::parse(file)["val_nll_8k"];
}

TEST(Predict, TheDemoModelsLikelihoodIsTheGoldenOne) {
  Engine engine = MakeEngine(DemoDir(), Placement("none"), Precision::kExact);
  const Tokenizer tokenizer = ReadTokenizer(DemoDir(), engine.config().vocab_size);
  Windows windows =
      CutWindows(tokenizer.Encode(ReadText(kText)), 512, engine.config().bos_token_id);
  windows.resize(16);
  LikelihoodSum sum;
  std::vector<double> p(static_cast<std::size_t>(engine.config().vocab_size));
  std::int64_t last = 0;
  PredictOptions options;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, 16 * 512);
    last = done;
  };
  Predict(engine, windows, options, [&](std::span<const float> logits, std::int32_t target) {
    LogProbabilities(logits, p);
    sum.Add(p[target]);
  });
  EXPECT_EQ(last, 16 * 512);
  EXPECT_EQ(sum.Result().tokens, 16 * 511);
  // The reference rounds differently in f32; two implementations agree within 2e-5 a logit.
  EXPECT_NEAR(sum.Result().nll, GoldenNll(), 5e-5);
}

TEST(Predict, AWindowThatDoesNotFitIsRefused) {
  Engine engine = MakeEngine(DemoDir(), Placement("none"), Precision::kFast);
  const Windows windows = {Count(static_cast<std::int32_t>(engine.FreeTokens()) + 1)};
  EXPECT_THROW(Predict(engine, windows, {}, [](std::span<const float>, std::int32_t) {}),
               UsageError);
}

TEST(Predict, AnInterruptEndsIt) {
  Engine engine = MakeEngine(DemoDir(), Placement("none"), Precision::kFast);
  PredictOptions options;
  options.interrupted = [] { return true; };
  EXPECT_THROW(
      Predict(engine, {Count(4)}, options, [](std::span<const float>, std::int32_t) { FAIL(); }),
      Error);
}

// The `tandem perplexity` program. Exit code, standard output and standard error.
struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class PerplexityCommand : public testing::Test {
 protected:
  Outcome Tandem(const std::string& arguments) const {
    const std::string at = folder_.path().string();
    const std::string command = "cd " + at + " && XDG_CACHE_HOME=" + at +
                                " " TANDEM_BINARY " perplexity --device none --model " + DemoDir() +
                                " " + arguments + " >out 2>err";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            ReadText(folder_ / "out"), ReadText(folder_ / "err")};
  }
  TempFolder folder_;
};

TEST_F(PerplexityCommand, AgainstItselfNothingDiverges) {
  const Outcome got = Tandem("--text " + kText + " --windows 2 --ctx 64 -q --output json" +
                             " --against " + DemoDir());
  ASSERT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.err, "");
  const auto report = nlohmann::json::parse(got.out);
  EXPECT_EQ(report["tokens"], 2 * 63);
  EXPECT_EQ(report["nll"], report["against"]["nll"]);
  EXPECT_EQ(report["kl_divergence"]["highest"], 0.0);
  EXPECT_EQ(report["same_top"], 1.0);
}

TEST_F(PerplexityCommand, CoarserFormatsDivergeMore) {
  double last = 0;
  for (const char* format : {"q8_0", "q4_0", "q2_k"}) {
    const Outcome got =
        Tandem("--text " + kText + " --windows 4 --ctx 256 -q --output json --against " +
               DemoDir() + " --embeddings " + format + " --attention " + format);
    ASSERT_EQ(got.code, 0) << got.err;
    const auto report = nlohmann::json::parse(got.out);
    const double divergence = report["kl_divergence"]["mean"];
    EXPECT_GT(divergence, 2 * last) << format;
    EXPECT_LE(report["kl_divergence"]["p99"], report["kl_divergence"]["highest"]);
    EXPECT_LT(report["same_top"], 1.0) << format;
    last = divergence;
  }
}

TEST_F(PerplexityCommand, ReportsForPeople) {
  const Outcome got = Tandem("--text " + kText + " --windows 1 --ctx 128 --against " + DemoDir());
  ASSERT_EQ(got.code, 0) << got.err;
  EXPECT_THAT(got.out, HasSubstr("127 tokens in windows of 128\n  NLL "));
  EXPECT_THAT(got.out, HasSubstr("KL divergence 0.000000"));
  EXPECT_THAT(got.out, HasSubstr("same most likely token 100.00 %"));
}

TEST_F(PerplexityCommand, RefusesWhatCannotBeCompared) {
  Outcome got =
      Tandem("--text " + kText + " --against " + TANDEM_SOURCE_DIR + "/tests/golden/v2-lite");
  EXPECT_NE(got.code, 0);
  EXPECT_EQ(got.out, "");
  got = Tandem("--text " + kText + " --against " + DemoDir() + " --reference-gib 0.01");
  EXPECT_EQ(got.code, 2);
  EXPECT_THAT(got.err, HasSubstr("take --windows 2, or more memory"));
  got = Tandem("--text " + kText + " --ctx 1");
  EXPECT_EQ(got.code, 2) << got.err;
  const std::string empty = folder_.Write("empty.txt", "").string();
  got = Tandem("--text " + empty);
  EXPECT_EQ(got.code, 2);
  EXPECT_THAT(got.err, HasSubstr("expected at least two tokens"));
}

}  // namespace
}  // namespace tandem::test
