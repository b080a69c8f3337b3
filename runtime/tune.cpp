#include "runtime/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "memory/error.h"
#include "placement/settings.h"
#include "runtime/clock.h"
#include "runtime/interrupt.h"
#include "runtime/pin_profile.h"

namespace tandem {
namespace {

constexpr double kLeastGain = 0.02;
constexpr std::size_t kPairs = 3;
constexpr std::size_t kMostPairs = 7;      // where three do not decide
constexpr double kClearlySlower = 0.93;    // one pair is enough
constexpr double kShareOfTime = 1.0 / 40;  // of all minutes, for one measurement

std::string Percent(double ratio) { return fmt::format("{:+.1f} %", 100 * (ratio - 1)); }

// The machine as a session with this profile will read it: without devices, none are looked for.
std::string MachineFingerprint(const Session& session, const Profile& profile) {
  if (profile.device != "none") return Fingerprint(session.machine);
  return Fingerprint(ReadMachine(ProbeDevices::kNo));
}

}  // namespace

double Comparison::median() const { return ratios.empty() ? 1 : Median(ratios); }

double Comparison::spread() const {
  if (ratios.empty()) return 0;
  std::vector<double> distances;
  for (const double ratio : ratios) distances.push_back(std::abs(ratio - median()));
  return Median(distances);
}

bool Comparison::Helps() const {
  return ratios.size() >= kPairs && median() > 1 + std::max(kLeastGain, spread());
}

Tuner::Tuner(const Session& session, Engine& engine, const TuneOptions& options,
             const PlanOptions& plan_options, Say say, std::function<bool()> interrupted)
    : session_(session),
      engine_(engine),
      options_(options),
      say_(std::move(say)),
      interrupted_(std::move(interrupted)),
      candidates_(engine.model(), session.machine, session.profile, plan_options, engine.plan()),
      workload_(WorkloadOf(session.profile)),
      began_(Now()) {
  const auto start = candidates_.Pin("start", session.profile, engine.plan());
  if (!start)
    throw Error(ExitCode::kInternal, "tune: no profile gives the plan that it began with");
  start_ = best_ = *start;
  const Model& model = engine.model();
  state_ = {Fingerprint(session.machine),
            ModelFingerprint(model.config, model.tensors),
            SettingsYaml(start_.profile),
            SettingsYaml(best_.profile),
            {}};
  Resume();
}

void Tuner::Resume() {
  if (options_.state.empty() || !std::filesystem::exists(options_.state)) return;
  TuneState old = ReadTuneState(options_.state);
  if (old.machine != state_.machine || old.model != state_.model || old.start != state_.start) {
    Throw<UsageError>(
        "{}: the state is of another {}; give the same model and options, or another file",
        options_.state,
        old.machine != state_.machine ? "machine"
        : old.model != state_.model   ? "model"
                                      : "start");
  }
  const Profile profile = ParseProfile(old.best, options_.state);
  const auto best = candidates_.FromProfile("best so far", profile);
  if (!best) Throw<UsageError>("{}: its best plan does not fit any more", options_.state);
  best_ = *best;
  state_ = std::move(old);
  say_(fmt::format("goes on after {} trials", state_.trials.size()));
}

double Tuner::SecondsLeft() const { return options_.minutes * 60 - (Now() - began_); }

// As much of the workload as lets many measurements fit into the time.
void Tuner::ChooseWork() {
  const double most = options_.minutes * 60 * kShareOfTime;
  work_.sequences = workload_.sequences;
  work_.prompt_tokens = std::min<std::int64_t>(workload_.prompt_tokens, 64);
  work_.gen_tokens = std::min<std::int64_t>(workload_.answer_tokens, 4);
  BenchOnce(engine_, work_, interrupted_);  // touches all memory for the first time
  const PhaseSeconds s = BenchOnce(engine_, work_, interrupted_);
  const double prefill_s = s.prefill / static_cast<double>(work_.prompt_tokens);
  const double decode_s = s.decode / static_cast<double>(work_.gen_tokens);
  const auto tokens = [&](double each, std::int64_t least, std::int64_t wanted) {
    const auto fit = static_cast<std::int64_t>(most / 2 / each);
    return std::min(wanted, std::max(least, fit));
  };
  work_.prompt_tokens = tokens(prefill_s, 64, workload_.prompt_tokens);
  work_.gen_tokens = tokens(decode_s, 8, workload_.answer_tokens);
}

double Tuner::Measure() {
  last_ = BenchOnce(engine_, work_, interrupted_);
  const auto scaled = [](double seconds, std::int64_t of, std::int64_t tokens) {
    return seconds * static_cast<double>(tokens) / static_cast<double>(of);
  };
  return scaled(last_.prefill, work_.prompt_tokens, workload_.prompt_tokens) +
         scaled(last_.decode, work_.gen_tokens, workload_.answer_tokens);
}

void Tuner::Switch(const TuneCandidate& candidate) {
  if (PlacementKey(engine_.plan()) == PlacementKey(candidate.plan)) return;
  engine_.Apply(candidate.plan);
  BenchOptions warm_up = work_;
  warm_up.prompt_tokens = std::min<std::int64_t>(work_.prompt_tokens, candidate.plan.max_rows);
  warm_up.gen_tokens = std::min<std::int64_t>(work_.gen_tokens, 2);
  BenchOnce(engine_, warm_up, interrupted_);
}

// Pairs in alternation, each beginning with the other plan: a machine that gets slower by and by
// favours neither.
Comparison Tuner::Compare(const TuneCandidate& before, const TuneCandidate& after, bool may_stop) {
  const double began = Now();
  Comparison comparison;
  const auto undecided = [&] {
    return comparison.median() > 1 + kLeastGain && !comparison.Helps();
  };
  for (std::size_t pair = 0; pair < kPairs || (pair < kMostPairs && undecided()); ++pair) {
    double seconds[2] = {};
    for (const std::size_t turn : {pair % 2, 1 - pair % 2}) {
      Switch(turn == 0 ? before : after);
      seconds[turn] = Measure();
    }
    comparison.ratios.push_back(seconds[0] / seconds[1]);
    if (may_stop && comparison.median() < (pair == 0 ? kClearlySlower : 1)) break;
  }
  trial_s_ = std::max(trial_s_, Now() - began);
  return comparison;
}

bool Tuner::NextTrial() {
  const auto known = [&](const TuneCandidate& candidate) {
    const std::string key = PlacementKey(candidate.plan);
    return key == PlacementKey(start_.plan) || key == PlacementKey(best_.plan) ||
           std::ranges::find(state_.trials, key, &TuneTrial::key) != state_.trials.end();
  };
  for (const TuneCandidate& candidate : shipped_) {
    if (known(candidate)) continue;
    Try(candidate);
    return true;
  }
  for (const TuneCandidate& candidate : candidates_.Neighbours(best_, work_.prompt_tokens)) {
    if (known(candidate)) continue;
    Try(candidate);
    return true;
  }
  return false;
}

void Tuner::Try(const TuneCandidate& candidate) {
  TuneTrial trial{candidate.change, PlacementKey(candidate.plan), 0, 0, false};
  try {
    const Comparison comparison = Compare(best_, candidate, /*may_stop=*/true);
    trial.ratio = comparison.median();
    trial.pairs = static_cast<int>(comparison.ratios.size());
    trial.kept = comparison.Helps();
    say_(fmt::format("{:>8}  {:<7}  {}", Percent(trial.ratio), trial.kept ? "kept" : "dropped",
                     trial.change));
  } catch (const Error& failure) {  // such as memory that was planned and is not there
    if (interrupted_()) throw;
    say_(fmt::format("{:>8}  {:<7}  {}: {}", "", "failed", trial.change, failure.what()));
  }
  if (trial.kept) {
    best_ = candidate;
    state_.best = SettingsYaml(best_.profile);
  }
  state_.trials.push_back(std::move(trial));
  SaveState();
}

void Tuner::SaveState() const {
  if (!options_.state.empty()) WriteTuneState(state_, options_.state);
}

TuneEnd Tuner::Search() {
  while (true) {
    if (interrupted_()) return TuneEnd::kInterrupted;
    // The last comparison takes about as long as the longest before it.
    const bool changed = PlacementKey(best_.plan) != PlacementKey(start_.plan);
    if (SecondsLeft() < (changed ? 2 : 1) * trial_s_) return TuneEnd::kTime;
    try {
      if (!NextTrial()) return TuneEnd::kNothingLeft;
    } catch (const Error&) {
      if (!interrupted_()) throw;
      return TuneEnd::kInterrupted;
    }
  }
}

void Tuner::CheckTotal(TuneResult& result) {
  result.total = Compare(start_, best_, /*may_stop=*/false);
  if (result.total.median() < 1) {
    say_("the start is as fast as all changes together: it is given back");
    best_ = start_;
    state_.best = state_.start;
    SaveState();
  }
  Switch(start_);
  Measure();
  result.start_s = last_;
  Switch(best_);
  Measure();
  result.best_s = last_;
}

TuneResult Tuner::Run() {
  ChooseWork();
  say_(fmt::format("measures {} sequence(s) of {} prompt and {} answer tokens, for {} and {}",
                   work_.sequences, work_.prompt_tokens, work_.gen_tokens, workload_.prompt_tokens,
                   workload_.answer_tokens));
  SaveState();
  shipped_ = candidates_.Shipped();
  TuneResult result;
  result.end = Search();
  try {
    const bool changed = PlacementKey(best_.plan) != PlacementKey(start_.plan);
    if (changed && result.end != TuneEnd::kInterrupted) CheckTotal(result);
  } catch (const Error&) {
    if (!interrupted_()) throw;
    result.end = TuneEnd::kInterrupted;
  }
  if (PlacementKey(engine_.plan()) != PlacementKey(best_.plan)) engine_.Apply(best_.plan);
  result.best = best_;
  result.start_key = PlacementKey(start_.plan);
  result.trials = state_.trials;
  result.work = work_;
  return result;
}

std::string TunedProfile(const Session& session, const Engine& engine, const TuneResult& result,
                         const std::string& when) {
  Profile profile = result.best.profile;
  profile.machine_fingerprint = MachineFingerprint(session, profile);
  profile.model_fingerprint = ModelFingerprint(engine.config(), engine.model().tensors);
  std::string text = fmt::format(
      "# Made by `tandem tune` on {} with {}\n# on {}{}{}.\n", when, engine.model().name,
      session.machine.cpu_name, result.best.plan.devices.empty() ? "" : " and ",
      result.best.plan.devices.empty() ? "" : result.best.plan.devices[0].name);
  const bool changed = PlacementKey(result.best.plan) != result.start_key;
  if (!changed) {
    text += "# The plan that it began with: nothing that was tried helped beyond noise.\n";
  } else if (result.total.ratios.empty()) {
    text += "# Interrupted before start and result were compared once more.\n";
  } else {
    text += fmt::format("# Against the start, in alternation: {} (median of {} pairs).\n",
                        Percent(result.total.median()), result.total.ratios.size());
  }
  for (const TuneTrial& trial : result.trials) {
    if (changed && trial.kept)
      text += fmt::format("# {}  {}\n", Percent(trial.ratio), trial.change);
  }
  return text + SettingsYaml(profile);
}

}  // namespace tandem
