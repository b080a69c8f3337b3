// ctest: opencl
// Tuning ends with a profile that loads to the plan that it found, can be interrupted and resumed,
// and varies only what the user left open. Which plan is fastest is not tested: that is measured.
#include "runtime/tune.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "memory/error.h"
#include "placement/settings.h"
#include "runtime/abilities.h"
#include "runtime/pin_profile.h"
#include "tests/placement/invented.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

PlanOptions FastOptions() {
  PlanOptions options;
  options.abilities = kAbilities;
  return options;
}

struct Tuning {
  explicit Tuning(const std::string& profile, double minutes, const std::string& state = "")
      : Tuning(OptionsOf(profile), minutes, state) {}
  Tuning(const SessionOptions& flags, double minutes, const std::string& state)
      : session(OpenSession(flags)),
        engine(std::move(session.model), session.plan),
        tune{minutes, "", state} {}

  static SessionOptions OptionsOf(const std::string& profile) {
    SessionOptions flags;
    flags.model_dir = DemoDir();
    flags.profile = profile;
    flags.settings = {{"workload.prompt_tokens", "64", "--prompt"},
                      {"workload.answer_tokens", "8", "--answer"}};
    return flags;
  }

  TuneResult Run(const std::function<bool()>& interrupted) {
    Tuner tuner(
        session, engine, tune, options, [this](const std::string& line) { said.push_back(line); },
        interrupted);
    return tuner.Run();
  }

  Session session;
  Engine engine;
  TuneOptions tune;
  PlanOptions options = FastOptions();
  std::vector<std::string> said;
};

// As a new process would load it: this one has told PoCL how many threads to use, and PoCL's
// compute units, which the machine's fingerprint has, follow that.
Plan Load(const std::string& text, const TempFolder& folder) {
  unsetenv("POCL_MAX_PTHREAD_COUNT");
  const auto file = folder.Write("tuned.yaml", text);
  SessionOptions options;
  options.model_dir = DemoDir();
  options.profile = file.string();
  return OpenSession(options).plan;
}

const auto kNever = [] { return false; };

TEST(PinProfile, GivesThePlanOfEveryPlacement) {
  const Model model = OpenCheckpoint(DemoDir());
  for (const std::string& placement : AllPlacements()) {
    if (NeedsDevice(placement) && !HaveDevice()) continue;
    Profile profile = Placement(placement);
    profile.threads = 1;  // and one of the device's: two cores are enough
    const Machine machine =
        ReadMachine(NeedsDevice(placement) ? ProbeDevices::kYes : ProbeDevices::kNo);
    Plan plan = MakePlan(model.config, model.tensors, machine, profile, Precision::kFast);
    const Plan pinned =
        MakePlan(model.config, model.tensors, machine, PinProfile(profile, plan), Precision::kFast);
    EXPECT_EQ(PlacementKey(pinned), PlacementKey(plan)) << placement;
    plan.max_rows += 1;
    EXPECT_NE(PlacementKey(pinned), PlacementKey(plan)) << placement;
  }
}

// Whatever a profile says of threads on whatever cores: if there is a plan, then what it says of
// them is accepted, and gives the same.
TEST(PinProfile, ThreadsOfAPlanAreAcceptedWhereItWasMade) {
  const Model model = OpenCheckpoint(DemoDir());
  const auto plan = [&](const Machine& machine, const Profile& profile) {
    return MakePlan(model.config, model.tensors, machine, profile, Precision::kFast);
  };
  int planned = 0;
  const auto check = [&](const Machine& machine, const Profile& profile, const std::string& what) {
    Plan first;
    try {
      first = plan(machine, profile);
    } catch (const ConfigError&) {
      return;  // more than the cores
    }
    ++planned;
    ASSERT_EQ(first.devices.size(), 1U) << what;
    Plan again;
    ASSERT_NO_THROW(again = plan(machine, PinProfile(profile, first))) << what;
    EXPECT_EQ(PlacementKey(again), PlacementKey(first)) << what;
  };
  for (const int cores : {1, 2, 3, 8}) {
    for (const double quota : {0.0, 1.5}) {
      Machine machine = PoclMachine(cores);
      machine.cpu_quota = quota;
      for (int threads = 0; threads <= cores; threads += threads < 3 ? 1 : 5) {
        for (int device = 0; device <= cores; device += device < 3 ? 1 : 5) {
          Profile profile = Placement("device");
          if (device > 0) profile.device_threads = device;
          const std::string what = fmt::format("{} cores, quota {}, {} threads, {} of the device",
                                               cores, quota, threads, device);
          if (threads > 0) profile.threads = threads;
          check(machine, profile, what);
          if (threads == 0) continue;
          profile.threads.reset();
          profile.node_threads = {{0, threads}};
          check(machine, profile, what + ", by node");
        }
      }
    }
  }
  EXPECT_GT(planned, 50);
}

TEST(Tune, TheSavedProfileLoadsToThePlanThatItEndedWith) {
  const TempFolder folder;
  Tuning tuning("", /*minutes=*/0.1);
  const TuneResult result = tuning.Run(kNever);
  EXPECT_FALSE(result.trials.empty());
  EXPECT_EQ(PlacementKey(tuning.engine.plan()), PlacementKey(result.best.plan));
  const std::string text = TunedProfile(tuning.session, tuning.engine, result, "2026-11-22");
  EXPECT_NE(text.find("made_for"), std::string::npos) << text;
  EXPECT_EQ(text.rfind("# Made by `tandem tune` on 2026-11-22", 0), 0U) << text;
  EXPECT_EQ(PlacementKey(Load(text, folder)), PlacementKey(result.best.plan)) << text;
}

TEST(Tune, AnInterruptKeepsTheBestAndResumingSkipsWhatWasTried) {
  const TempFolder folder;
  const std::string state = (folder / "state.json").string();
  std::size_t tried = 0;
  {
    Tuning tuning("", /*minutes=*/10, state);
    // After the second trial has been told.
    const TuneResult result = tuning.Run([&] { return tuning.said.size() >= 3; });
    EXPECT_EQ(result.end, TuneEnd::kInterrupted);
    tried = result.trials.size();
    EXPECT_EQ(tried, 2U);
    const std::string text = TunedProfile(tuning.session, tuning.engine, result, "2026-11-22");
    EXPECT_EQ(PlacementKey(Load(text, folder)), PlacementKey(result.best.plan)) << text;
  }
  EXPECT_EQ(ReadTuneState(state).trials.size(), tried);
  Tuning tuning("", /*minutes=*/10, state);
  const TuneResult result = tuning.Run([&] { return tuning.said.size() >= 4; });
  ASSERT_EQ(result.trials.size(), tried + 2);
  for (std::size_t i = 0; i < result.trials.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_NE(result.trials[i].key, result.trials[j].key) << result.trials[i].change;
    }
  }
}

TEST(Tune, AStateOfAnotherStartIsRefused) {
  const TempFolder folder;
  const std::string state = (folder / "state.json").string();
  WriteTuneState({"0", "1", "", "", {}}, state);
  Tuning tuning("none", /*minutes=*/0.1, state);
  EXPECT_THROW(tuning.Run(kNever), UsageError);
  folder.Write("damaged.json", "{");
  EXPECT_THROW(ReadTuneState((folder / "damaged.json").string()), CheckpointError);
}

// A demand of the user is kept by every candidate.
TEST(Tune, DemandsAreNotVaried) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  SessionOptions options = Tuning::OptionsOf("");
  options.settings.push_back({"device", "0", "--device"});
  options.settings.push_back({"placement.attention", "device", "--attention"});
  options.settings.push_back({"placement.routed_experts", "{share: 0.25}", "--experts"});
  Tuning tuning(options, 1, "");
  const TuneCandidates candidates(tuning.engine.model(), tuning.session.machine,
                                  tuning.session.profile, tuning.options, tuning.engine.plan());
  EXPECT_TRUE(candidates.Shipped().empty());
  const auto start = candidates.Pin("start", tuning.session.profile, tuning.engine.plan());
  ASSERT_TRUE(start);
  const auto neighbours = candidates.Neighbours(*start, 1024);
  EXPECT_GT(neighbours.size(), 3U);
  for (const TuneCandidate& candidate : neighbours) {
    for (const LayerPlan& layer : candidate.plan.layers) {
      EXPECT_TRUE(layer.attention.on_device()) << candidate.change;
      if (!layer.moe) continue;
      EXPECT_EQ(std::ranges::count_if(layer.experts, [](Place p) { return p.on_device(); }), 8)
          << candidate.change;
    }
  }
}

// What a shipped profile does not speak of stays the user's, and so does what he has said himself.
TEST(Tune, ShippedProfilesKeepWhatTheUserSays) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  SessionOptions options = Tuning::OptionsOf("");
  const std::map<std::string, std::string> said{{"hand_over", "events"},
                                                {"deferral", "on"},
                                                {"step_ahead", "on"},
                                                {"device_threads", "1"},
                                                {"memory.device", "192 MiB"},
                                                {"activations.type", "f32"},
                                                {"kv.type", "f32"},
                                                {"workload.context", "777"},
                                                {"placement.prefill_experts", "host"},
                                                {"placement.stream_memory", "ring"},
                                                {"placement.experts.policy", "order"},
                                                {"placement.expert_cache", "1 MiB"}};
  for (const auto& [path, text] : said) options.settings.push_back({path, text, "--" + path});
  Tuning tuning(options, 1, "");
  const TuneCandidates candidates(tuning.engine.model(), tuning.session.machine,
                                  tuning.session.profile, tuning.options, tuning.engine.plan());
  const auto shipped = candidates.Shipped();
  EXPECT_FALSE(shipped.empty());
  for (const TuneCandidate& candidate : shipped) {
    for (const auto& [path, text] : said) {
      if (path == "device_threads" && candidate.plan.devices.empty()) continue;
      Profile profile = candidate.profile;
      const std::string found = SettingsYaml(profile);
      Copy(*FindSetting(path), tuning.session.profile, profile);
      EXPECT_EQ(SettingsYaml(profile), found) << path << ", " << candidate.change;
    }
  }
}

TEST(Tune, OnlyAGainBeyondNoiseHelps) {
  EXPECT_TRUE((Comparison{{1.10, 1.12, 1.11}}.Helps()));
  EXPECT_FALSE((Comparison{{1.10, 1.12}}.Helps())) << "two pairs are too few";
  EXPECT_FALSE((Comparison{{1.01, 1.015, 1.012}}.Helps())) << "below 2 %";
  EXPECT_FALSE((Comparison{{0.95, 1.05, 1.25}}.Helps())) << "within the spread of the pairs";
}

}  // namespace
}  // namespace tandem::test
