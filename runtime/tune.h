#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/bench.h"
#include "runtime/engine.h"
#include "runtime/session.h"
#include "runtime/tune_candidates.h"
#include "runtime/tune_state.h"

namespace tandem {

struct TuneOptions {
  double minutes = 5;
  std::string output = "tuned.yaml";  // the profile
  std::string state;                  // where to go on from, and to keep the state
};

// Seconds of the same work under two plans, each pair measured right after one another.
struct Comparison {
  std::vector<double> ratios;  // before / after: above 1, the second is faster
  double median() const;
  // The median distance from the median.
  double spread() const;
  // A change is kept if it helps beyond noise: the median of three pairs (or up to seven,
  // where three do not decide) is above 1 + max(2 %, spread).
  bool Helps() const;
};

enum class TuneEnd : std::uint8_t { kNothingLeft, kTime, kInterrupted };

struct TuneResult {
  TuneCandidate best;     // the start, if nothing helped
  std::string start_key;  // PlacementKey
  TuneEnd end = TuneEnd::kNothingLeft;
  std::vector<TuneTrial> trials;  // all, those of earlier runs included
  Comparison total;               // start against best, measured at the end
  PhaseSeconds start_s, best_s;   // of the work that was measured
  BenchOptions work;
};

// Looks for a faster plan by trying: the shipped profiles that fit, then one change at a time from
// the best plan so far, in the order that the cost model likes. `engine` was loaded from `session`
// and ends with the best plan. `state` is gone on from, and written after each trial. The last word
// has a comparison of start and best: the start is given back unless the best wins it.
class Tuner {
 public:
  using Say = std::function<void(const std::string&)>;
  Tuner(const Session& session, Engine& engine, const TuneOptions& options,
        const PlanOptions& plan_options, Say say, std::function<bool()> interrupted);

  TuneResult Run();

 private:
  void Resume();
  void ChooseWork();
  double Measure();  // seconds of the whole workload under the engine's plan
  void Switch(const TuneCandidate& candidate);
  Comparison Compare(const TuneCandidate& before, const TuneCandidate& after, bool may_stop);
  TuneEnd Search();
  bool NextTrial();  // false: nothing is left to try
  void Try(const TuneCandidate& candidate);
  void CheckTotal(TuneResult& result);
  void SaveState() const;
  double SecondsLeft() const;

  const Session& session_;
  Engine& engine_;
  const TuneOptions& options_;
  Say say_;
  std::function<bool()> interrupted_;
  TuneCandidates candidates_;
  Workload workload_;
  BenchOptions work_;
  PhaseSeconds last_;  // of Measure
  double began_ = 0;
  double trial_s_ = 0;  // that the longest comparison took
  TuneCandidate start_, best_;
  std::vector<TuneCandidate> shipped_;
  TuneState state_;
};

// The profile as a file: a header that says when, with what and what was gained, and made_for.
std::string TunedProfile(const Session& session, const Engine& engine, const TuneResult& result,
                         const std::string& when);

}  // namespace tandem
