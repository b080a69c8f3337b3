// ctest: opencl
// `tandem tune kernels`: that it ends, that what it stores is used by every command and nothing
// else is, and that tokens stay the same. No test looks at which shapes win.
#include "runtime/tune_kernels.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cl_kernels/tunables.h"
#include "placement/machine.h"
#include "tests/support/cl_fixture.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using TuneKernelsTest = test::ClTest;
using Json = nlohmann::json;

struct Outcome {
  int code = -1;
  std::string out, err;
};

// With a cache folder of its own, but compiled kernels of the machine's.
class Program {
 public:
  Outcome operator()(const std::string& arguments, const std::string& environment = "") const {
    const test::TempFolder folder;
    const std::string at = folder.path().string();
    const std::string command =
        fmt::format("XDG_CACHE_HOME={} {} timeout 300 {} {} </dev/null >{}/out 2>{}/err",
                    cache_.path().string(), environment, TANDEM_BINARY, arguments, at, at);
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            test::ReadText(folder / "out"), test::ReadText(folder / "err")};
  }
  std::filesystem::path shapes() const { return cache_.path() / "tandem" / "shapes"; }

 private:
  test::TempFolder cache_;
};

// What is tried where time is no matter.
TEST(TuneKernelsWork, IsWhatTheTunableChanges) {
  using Kind = ShapeWork::Kind;
  const cl::DeviceTraits traits = cl::GpuTraits(4);
  for (const ShapeWork& work : WorkOf("few_rows_max", 32, 16, traits)) {
    EXPECT_EQ(work.kind, Kind::kProduct);
    EXPECT_GT(work.rows, 16);
    EXPECT_LE(work.rows, 32);
  }
  const std::vector<ShapeWork> far = WorkOf("few_rows_max", INT64_MAX, 64, traits);
  ASSERT_FALSE(far.empty());
  for (const ShapeWork& work : far) EXPECT_LE(work.rows, 256);
  for (const ShapeWork& work : WorkOf("batch_rows_min", 3, 5, traits)) {
    EXPECT_TRUE(work.rows == 3 || work.rows == 4) << work.rows;
  }
  for (const int nv_compute : {0, 75, 80, 90}) {
    for (const bool cpu : {false, true}) {
      cl::DeviceTraits t = cpu ? cl::CpuTraits(4) : cl::GpuTraits(4);
      t.nv_compute = nv_compute;
      for (const ShapeAxis& axis : AxesFor(t)) {
        for (const std::int64_t value : axis.values) {
          const std::string change = fmt::format("{}={}", axis.tunable, value);
          EXPECT_NO_THROW(cl::WithShapes(t, {change}, "")) << change;
          const bool is_same = cl::ShapeChanges(t, cl::WithShapes(t, {change}, "")).empty();
          EXPECT_TRUE(is_same || !WorkOf(axis.tunable, value, value + 1, t).empty()) << change;
        }
      }
    }
  }
}

// Two tunables are for those who set them: no case times the shared expert beside the choice of
// experts, nor attention.
TEST(TuneKernelsWork, WhatNoCaseTimesIsNoAxis) {
  std::set<std::string_view> tried;
  for (const int nv_compute : {0, 75, 80, 90}) {
    for (const bool cpu : {false, true}) {
      cl::DeviceTraits t = cpu ? cl::CpuTraits(4) : cl::GpuTraits(4);
      t.nv_compute = nv_compute;
      for (const ShapeAxis& axis : AxesFor(t)) tried.insert(axis.tunable);
    }
  }
  std::set<std::string_view> left;
  for (const cl::Tunable& tunable : cl::Tunables()) {
    if (!tried.contains(tunable.name)) left.insert(tunable.name);
  }
  EXPECT_EQ(left, (std::set<std::string_view>{"shared_beside_choice", "wide_min_groups"}));
  EXPECT_TRUE(
      cl::WithShapes(cl::GpuTraits(4), {"shared_beside_choice=1"}, "").shared_beside_choice);
}

TEST_F(TuneKernelsTest, ItTriesEveryShapeAndKeepsWhatItSays) {
  const test::TempFolder cache;
  const char* old = std::getenv("XDG_CACHE_HOME");
  const std::string before = old == nullptr ? "" : old;
  setenv("XDG_CACHE_HOME", cache.path().c_str(), 1);
  KernelTuneOptions options{{DType::kBF16}, 5, /*quick=*/true};
  std::vector<std::string> lines;
  const auto say = [&](const std::string& line) { lines.push_back(line); };
  const KernelTuneResult result = KernelTuner(device(), options, say, nullptr).Run();
  old == nullptr ? unsetenv("XDG_CACHE_HOME") : setenv("XDG_CACHE_HOME", before.c_str(), 1);
  EXPECT_EQ(result.end, TuneEnd::kNothingLeft);
  EXPECT_TRUE(result.before.empty());
  ASSERT_FALSE(result.trials.empty());
  bool kept = false;
  for (const KernelTrial& trial : result.trials) {
    EXPECT_EQ(trial.failure, "") << trial.change;
    EXPECT_EQ(trial.pairs.ratios.size(), 7U) << trial.change;
    EXPECT_GT(trial.cases, 0U) << trial.change;
    EXPECT_EQ(trial.kept, trial.pairs.Helps() && trial.worst >= 0.9) << trial.change;
    kept = kept || trial.kept;
  }
  EXPECT_GE(lines.size(), result.trials.size());
  EXPECT_EQ(result.total.ratios.empty(), !kept);
  EXPECT_TRUE(kept || result.shapes.changes.empty());
  EXPECT_NO_THROW(
      cl::WithShapes(cl::TraitsOf(device()), result.shapes.changes, device().info(), ""));
}

TEST_F(TuneKernelsTest, KernelsTakeWhatIsStoredBesideTheirCache) {
  const test::TempFolder folder;
  const cl::DeviceTraits table = cl::TraitsOf(device());
  const std::int64_t rows = table.wide_rows == 8 ? 4 : 8;
  const auto traits = [&] { return cl::Kernels(device(), folder / "cl").traits(); };
  EXPECT_TRUE(cl::ShapeChanges(table, traits()).empty());
  const std::string change = fmt::format("wide_rows={}", rows);
  const auto file = StoreShapes(folder / "shapes", device().info(), {{change}, "today"});
  EXPECT_EQ(traits().wide_rows, rows);
  EXPECT_EQ(cl::ShapeChanges(table, traits()), std::vector<std::string>{change});
  EXPECT_TRUE(cl::ShapeChanges(table, cl::Kernels(device(), "").traits()).empty());
  std::ofstream(file, std::ios::app) << "teams: 1000000\n";
  const cl::Kernels kernels(device(), folder / "cl");
  EXPECT_TRUE(cl::ShapeChanges(table, kernels.traits()).empty());
  EXPECT_NE(WarningOf(kernels.shapes()).find("teams is one of"), std::string::npos)
      << WarningOf(kernels.shapes());
}

TEST_F(TuneKernelsTest, TheProgramTunesShowsAndForgets) {
  const Program tandem;
  const Outcome tuned = tandem("tune kernels --quick --device 0 --formats q8_0 --minutes 0.02");
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_NE(tuned.out.find("stored in " + tandem.shapes().string()), std::string::npos)
      << tuned.out;
  const Outcome shown = tandem("devices");
  EXPECT_NE(shown.out.find("kernel shapes of device 0: "), std::string::npos) << shown.out;
  EXPECT_NE(shown.out.find("measured 2"), std::string::npos) << shown.out;
  EXPECT_EQ(tandem("tune kernels --device 0 --reset").code, 0);
  EXPECT_TRUE(std::filesystem::is_empty(tandem.shapes()));
  EXPECT_NE(tandem("tune kernels --device 0 --reset").out.find("no shapes are stored"),
            std::string::npos);
}

TEST_F(TuneKernelsTest, TokensAreTheSameInOtherShapes) {
  const Program tandem;
  const std::string run = fmt::format(
      "run --model {}/model/demo --device 0 --prompt \"To be\" --max-tokens 8 --temperature 0 -q",
      TANDEM_SOURCE_DIR);
  const Outcome table = tandem(run);
  ASSERT_EQ(table.code, 0) << table.err;
  ASSERT_FALSE(table.out.empty());
  const std::int64_t rows = cl::TraitsOf(device()).wide_rows == 8 ? 4 : 8;
  const auto file = StoreShapes(tandem.shapes(), device().info(),
                                {{fmt::format("wide_rows={}", rows)}, "2026-11-22"});
  const Outcome other = tandem(run);
  EXPECT_EQ(other.code, 0) << other.err;
  EXPECT_EQ(other.out, table.out);
  EXPECT_EQ(other.err.find("shapes"), std::string::npos) << other.err;
  const Outcome bench = tandem("bench kernels --quick --device 0 --only rmsnorm --output json -q");
  ASSERT_EQ(bench.code, 0) << bench.err;
  EXPECT_EQ(Json::parse(bench.out)["kernel_shapes"]["changes"][0],
            fmt::format("wide_rows={}", rows));
  // A file that nobody can use: a warning, and the table.
  std::ofstream(file, std::ios::app) << "frobs: 1\n";
  const Outcome refused = tandem(run);
  EXPECT_EQ(refused.code, 0) << refused.err;
  EXPECT_EQ(refused.out, table.out);
  EXPECT_NE(refused.err.find("tandem: warning: " + file.string()), std::string::npos)
      << refused.err;
  const Outcome doctor = tandem("doctor --no-disk");
  EXPECT_NE(doctor.out.find("warn  kernel shapes of device 0"), std::string::npos) << doctor.out;
  EXPECT_NE(doctor.out.find("frobs=1"), std::string::npos) << doctor.out;
}

TEST_F(TuneKernelsTest, RatesAreOfTheShapesThatTheyWereMeasuredWith) {
  Machine machine;
  machine.nodes.emplace_back();
  Device card;
  card.name = "a card";
  const std::string table = DeviceFingerprint(machine, card);
  card.kernel_shapes = "teams=4";
  EXPECT_NE(DeviceFingerprint(machine, card), table);
}

TEST_F(TuneKernelsTest, WhatIsWrongIsSaidByName) {
  const Program tandem;
  EXPECT_EQ(tandem("tune kernels --formats q9_z").code, 2);
  EXPECT_EQ(tandem("tune kernels --formats q2_k").code, 2);  // devices do not take it
  EXPECT_EQ(tandem("tune --minutes 3 kernels").code, 2);
  EXPECT_EQ(tandem("tune kernels --device 1000").code, 69);
  EXPECT_EQ(tandem("tune kernels", "TANDEM_KERNEL_SHAPES=table").code, 78);
  const Outcome bad = tandem("devices", "TANDEM_KERNEL_SHAPES=frobs=1");
  EXPECT_EQ(bad.code, 78) << bad.err;
  EXPECT_NE(bad.err.find("TANDEM_KERNEL_SHAPES"), std::string::npos) << bad.err;
}

}  // namespace
}  // namespace tandem
