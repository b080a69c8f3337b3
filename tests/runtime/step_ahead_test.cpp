// ctest: opencl
// Steps that are enqueued before their tokens are known give what steps one after the other give,
// and leave nothing behind where others come in their place.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "memory/error.h"
#include "runtime/engine_feed.h"
#include "tests/support/checkpoint_copy.h"
#include "tests/support/golden.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

std::vector<std::int32_t> Prompt(std::int64_t n, std::int32_t salt = 0) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    ids.push_back(static_cast<std::int32_t>((i * 37 + 5 + salt) % 2000));
  }
  return ids;
}

// Engines with the whole demo model on the device, or half of its experts on the host, which
// enqueue ahead or do not.
class StepAhead : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  }
  static Engine Make(bool ahead, std::int64_t context = 512) {
    Profile profile = Placement(GetParam());
    profile.step_ahead = ahead ? StepAheadWish::kOn : StepAheadWish::kOff;
    profile.prefill_experts = Profile::PrefillExperts::kHost;  // small steps may stream, too
    profile.context = context;
    return MakeEngine(DemoDir(), profile, Precision::kExact);
  }
  static Row At(const Engine& engine, std::int32_t sequence, std::int32_t token) {
    return {sequence, static_cast<std::int32_t>(engine.Length(sequence)), token, true};
  }
  // What the caller expects after a row.
  static Row After(const Row& row) { return {row.sequence, row.position + 1, -1, true}; }

  // Feeds a prompt and takes n greedy tokens. `between` is called before each.
  static std::vector<std::int32_t> Answer(
      Engine& engine, std::int32_t sequence, const std::vector<std::int32_t>& prompt, int n,
      const std::function<void(int)>& between = [](int) {}) {
    Prefill(engine, sequence, {prompt.begin(), prompt.end() - 1}, 64);
    std::vector<std::int32_t> ids{prompt.back()};
    for (int i = 0; i < n; ++i) {
      between(i);
      const Row row = At(engine, sequence, ids.back());
      const Row next = After(row);
      ids.push_back(engine.StepGreedy({&row, 1}, {&next, 1})[0]);
    }
    engine.ExpectNothing();
    return ids;
  }
};

TEST_P(StepAhead, SaysSoWhereItHasNoEffect) {
  EXPECT_TRUE(Make(true).Warnings().empty());
  Profile profile = Placement("router_on_host");
  const auto warnings = [&](StepAheadWish wish) {
    profile.step_ahead = wish;
    return MakeEngine(DemoDir(), profile, Precision::kExact).Warnings();
  };
  EXPECT_TRUE(warnings(StepAheadWish::kAuto).empty());
  EXPECT_TRUE(warnings(StepAheadWish::kOff).empty());
  const std::vector<std::string> on = warnings(StepAheadWish::kOn);
  ASSERT_EQ(on.size(), 1U);
  EXPECT_NE(on[0].find("step_ahead: on has no effect"), std::string::npos);
}

TEST_P(StepAhead, GivesTheSameTokensAndCounts) {
  Engine with = Make(true), without = Make(false);
  const auto run = [](Engine& engine) {
    engine.ResetMetrics();
    return Answer(engine, engine.NewSequence(), Prompt(30), 140);  // over blocks of 64
  };
  EXPECT_EQ(run(with), run(without));
  EXPECT_EQ(with.metrics().steps_ahead, 139);
  EXPECT_EQ(without.metrics().steps_ahead, 0);
  EXPECT_EQ(with.metrics().device_weight_bytes, without.metrics().device_weight_bytes);
  EXPECT_EQ(with.metrics().expert_rows_device, without.metrics().expert_rows_device);
  EXPECT_EQ(with.metrics().rows, without.metrics().rows);
  EXPECT_EQ(with.FreeTokens(), without.FreeTokens());
}

// The demo without its shared experts, and its first layer alone, which is dense.
TEST_P(StepAhead, ModelsWithoutSharedOrWithoutAnyExpertsHaveIt) {
  const auto expect = [](const char* what, auto leaves_out, auto change) {
    ModelCopy copy(DemoDir());
    change(copy.config);
    std::erase_if(copy.tensors, [&](const auto& tensor) { return leaves_out(tensor.first); });
    copy.Open();
    const auto answer = [&](StepAheadWish wish) {
      Profile profile = Placement(GetParam());
      profile.step_ahead = wish;
      Engine engine = MakeEngine(copy.folder.path().string(), profile, Precision::kExact);
      const auto ids = Answer(engine, engine.NewSequence(), Prompt(30), 20);
      EXPECT_EQ(engine.metrics().steps_ahead, wish == StepAheadWish::kOn ? 19 : 0) << what;
      return ids;
    };
    EXPECT_EQ(answer(StepAheadWish::kOn), answer(StepAheadWish::kOff)) << what;
  };
  expect(
      "no shared experts",
      [](const std::string& name) { return name.find("shared_experts") != std::string::npos; },
      [](auto& config) { config["n_shared_experts"] = 0; });
  expect(
      "no experts",
      [](const std::string& name) {
        return name.find("layers.") != std::string::npos &&
               name.find("layers.0.") == std::string::npos;
      },
      [](auto& config) {
        config["num_hidden_layers"] = 1;
        for (const char* experts :
             {"n_routed_experts", "n_shared_experts", "num_experts_per_tok"}) {
          config[experts] = 0;
        }
      });
}

TEST_P(StepAhead, LogitsAreTheSameAfterGreedySteps) {
  Engine with = Make(true), without = Make(false);
  const auto run = [](Engine& engine) {
    const std::int32_t s = engine.NewSequence();
    std::vector<float> all;
    for (std::int32_t i = 0; i < 12; ++i) {
      const Row row{s, i, 11 * i + 3, true};
      const Row next = After(row);
      if (i % 3 == 0) {
        engine.StepGreedy({&row, 1}, {&next, 1});
      } else {
        const auto logits = engine.Step({&row, 1});
        all.insert(all.end(), logits.begin(), logits.end());
      }
    }
    return all;
  };
  EXPECT_EQ(run(with), run(without));
  EXPECT_EQ(with.metrics().steps_ahead, 4);
}

// Sequences that share a block copy it when they write to it, and the last one writes in place:
// such a step is not enqueued ahead, as others still read the block if it is given up.
TEST_P(StepAhead, SequencesOfOneBeginningGoOnTogether) {
  Engine with = Make(true), without = Make(false);
  const auto run = [](Engine& engine, bool gives_up) {
    const std::int32_t a = engine.NewSequence();
    Prefill(engine, a, Prompt(70), 64);
    const std::vector<std::int32_t> sequences{a, engine.Fork(a, 70), engine.Fork(a, 66)};
    const std::int32_t other = engine.NewSequence();
    std::vector<std::int32_t> all, last{1, 2, 3};
    for (int i = 0; i < 71; ++i) {
      std::vector<Row> rows, next;
      for (std::size_t k = 0; k < 3; ++k) {
        // First a step of as many rows that writes to no block that is shared.
        rows.push_back(At(engine, i == 0 ? other : sequences[k], last[k]));
        if (i == 0) rows[k].position = static_cast<std::int32_t>(k);
      }
      for (std::size_t k = 0; k < 3; ++k) next.push_back(At(engine, sequences[k], -1));
      for (std::size_t k = 0; k < 3 && i > 0; ++k) ++next[k].position;
      const auto ids = engine.StepGreedy(rows, next);
      std::ranges::copy(ids, last.begin());
      all.insert(all.end(), ids.begin(), ids.end());
      if (i == 0 && gives_up) engine.ExpectNothing();
    }
    for (const std::int32_t s : sequences) engine.FreeSequence(s);
    engine.FreeSequence(other);
    return all;
  };
  const std::vector<std::int32_t> expected = run(without, false);
  EXPECT_EQ(run(with, false), expected);
  EXPECT_EQ(with.metrics().steps_ahead, 69);
  EXPECT_EQ(run(with, true), expected);
  EXPECT_EQ(with.metrics().steps_ahead, 2 * 69);
  EXPECT_EQ(with.FreeTokens(), without.FreeTokens());
}

TEST_P(StepAhead, AnotherStepMayComeInItsPlace) {
  Engine with = Make(true), without = Make(false);
  const auto run = [](Engine& engine) {
    const std::int32_t other = engine.NewSequence();
    const std::int32_t s = engine.NewSequence();
    return Answer(engine, s, Prompt(50), 40, [&](int i) {
      const Row row = At(engine, other, 17 + i);
      if (i % 5 == 1) engine.StepGreedy({&row, 1});
      if (i % 5 == 2) engine.FreeSequence(engine.Fork(s, engine.Length(s)));
      if (i % 5 == 3) engine.Truncate(other, engine.Length(other) / 2);
      if (i % 5 != 4) return;
      const std::int32_t more = engine.NewSequence();
      Prefill(engine, more, Prompt(90, i), 40);
      engine.FreeSequence(more);
    });
  };
  EXPECT_EQ(run(with), run(without));
  EXPECT_EQ(with.FreeTokens(), without.FreeTokens());
  EXPECT_GT(with.metrics().steps_ahead, 5);
}

TEST_P(StepAhead, AnExpectationChangesNothing) {
  Engine engine = Make(true);
  const std::int32_t s = engine.NewSequence();
  Prefill(engine, s, Prompt(63), 64);
  const Row row{s, 63, 5, true};
  const Row next = After(row);  // takes a block
  engine.ResetMetrics();
  const std::int64_t free = engine.FreeTokens();
  engine.StepGreedy({&row, 1}, {&next, 1});
  const Metrics before = engine.metrics();
  EXPECT_EQ(engine.Length(s), 64);
  EXPECT_EQ(engine.FreeTokens(), free);
  const Row wrong{s, 64, 2048, true};
  EXPECT_THROW(engine.StepGreedy({&wrong, 1}), UsageError);
  engine.ExpectNothing();
  EXPECT_EQ(engine.Length(s), 64);
  EXPECT_EQ(engine.metrics().expert_rows_device, before.expert_rows_device);
  EXPECT_EQ(engine.metrics().device_weight_bytes, before.device_weight_bytes);
}

TEST_P(StepAhead, WhatThereIsNoRoomForIsNotPrepared) {
  Engine engine = Make(true, 64);
  const std::int32_t s = engine.NewSequence();
  const std::int64_t room = engine.FreeTokens();
  Prefill(engine, s, Prompt(room - 1), 64);
  const Row row = At(engine, s, 3);
  const Row next = After(row);
  EXPECT_NO_THROW(engine.StepGreedy({&row, 1}, {&next, 1}));
  const Row more = At(engine, s, 3);
  EXPECT_THROW(engine.StepGreedy({&more, 1}), UsageError);
}

// The waiting kernel gives up after a second or so; the step is then made as any other.
TEST_P(StepAhead, ACallerMayTakeItsTime) {
  Engine with = Make(true), without = Make(false);
  const auto run = [](Engine& engine, bool wait) {
    return Answer(engine, engine.NewSequence(), Prompt(10), 6, [&](int i) {
      if (wait && i == 3) std::this_thread::sleep_for(std::chrono::seconds(4));
    });
  };
  EXPECT_EQ(run(with, true), run(without, false));
  EXPECT_GE(with.metrics().steps_ahead, 4);
}

TEST_P(StepAhead, AnEngineMayEndWithAStepOnItsWay) {
  {
    Engine engine = Make(true);
    const std::int32_t s = engine.NewSequence();
    const Row row{s, 0, 5, true};
    const Row next = After(row);
    engine.StepGreedy({&row, 1}, {&next, 1});
  }
  Engine engine = Make(true);
  const std::int32_t s = engine.NewSequence();
  const Row row{s, 0, 5, true};
  const Row next = After(row);
  engine.StepGreedy({&row, 1}, {&next, 1});
  engine.FreeSequence(s);
  const Plan plan = engine.plan();
  EXPECT_NO_THROW(engine.Apply(plan));
}

TEST_P(StepAhead, AnswersAreMadeThroughIt) {
  Engine with = Make(true), without = Make(false);
  const Tokenizer tokenizer = ReadTokenizer(DemoDir(), 2048);
  const auto say = [&](Engine& engine, const GenerateOptions& options) {
    EngineFeed feed(engine, 512, [] { return false; });
    return Generate(
               feed, tokenizer, Prompt(20), options, [](std::string_view) {}, [] { return false; })
        .ids;
  };
  GenerateOptions options;
  options.max_tokens = 20;
  for (const double temperature : {0.0, 1.0}) {
    options.sampler.temperature = temperature;
    options.sampler.seed = 3;
    options.eos_ids = {};
    with.ResetMetrics();
    const std::vector<std::int32_t> ids = say(without, options);
    EXPECT_EQ(say(with, options), ids);
    // Not the prompt's and not the first one: a step of as many rows must have been before.
    EXPECT_EQ(with.metrics().steps_ahead, temperature == 0 ? 18 : 0);
    options.eos_ids = {ids[10]};  // ends in the middle, with a step on its way
    EXPECT_EQ(say(with, options), say(without, options));
  }
}

INSTANTIATE_TEST_SUITE_P(, StepAhead, testing::Values("device", "half"),
                         [](const auto& test) { return std::string(test.param); });

TEST(StepAheadPrograms, SayHowMany) {
  if (!HaveDevice()) GTEST_SKIP() << "no OpenCL device";
  const TempFolder folder;
  const std::string at = folder.path().string();
  const auto tandem = [&](const std::string& words, const std::string& wish) {
    const std::string command = TANDEM_BINARY " " + words + " --model " + DemoDir() +
                                " --device 0 --profile device --ctx 512 --step-ahead " + wish +
                                " >" + at + "/out 2>" + at + "/err";
    return std::system(command.c_str());
  };
  const std::string line = " decode steps enqueued ahead";
  const std::string run = "run --prompt 'To be' --max-tokens 5 --temperature 0";
  ASSERT_EQ(tandem(run, "on"), 0) << ReadText(folder / "err");
  EXPECT_NE(ReadText(folder / "err").find(" of 4" + line), std::string::npos)
      << ReadText(folder / "err");
  ASSERT_EQ(tandem(run, "off"), 0) << ReadText(folder / "err");
  EXPECT_EQ(ReadText(folder / "err").find(line), std::string::npos);

  const std::string bench = "bench --prompt-tokens 8 --gen-tokens 4 --repetitions 1 --quiet";
  ASSERT_EQ(tandem(bench, "on"), 0) << ReadText(folder / "err");
  EXPECT_NE(ReadText(folder / "out").find(" of 4" + line), std::string::npos)
      << ReadText(folder / "out");
  ASSERT_EQ(tandem(bench + " --output json", "on"), 0) << ReadText(folder / "err");
  const auto json = nlohmann::json::parse(ReadText(folder / "out"));
  EXPECT_EQ(json["steps_ahead"]["decode_steps"], 4);
  EXPECT_GE(json["steps_ahead"]["enqueued_ahead"], 1);
}

}  // namespace
}  // namespace tandem::test
