#include "runtime/tune_kernels.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>

#include "cl_kernels/tunables.h"
#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/self_test.h"
#include "runtime/self_test_cases.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr int kPairs = 7;
constexpr double kLeastCase = 0.9;      // of a case: what is lost elsewhere for a gain on the whole
constexpr double kClearlySlower = 0.7;  // one such case is enough

struct Stopped {};

// Candidates that differ in a number of rows share programs.
fs::path CandidateCache() {
  const fs::path cache = cl::DefaultCacheDir();
  return cache.empty() ? cache : cache / "tune";
}

KernelEffort EffortFor(bool quick) { return {quick ? 1e-4 : 2e-3, kPairs, 1e9, 0}; }

std::string Percent(double ratio) { return fmt::format("{:+.1f} %", 100 * (ratio - 1)); }

std::string Line(const KernelCase& c) {
  return fmt::format("{} {} {}", c.kernel, c.shape, c.format);
}

const cl::Tunable& TunableOf(std::string_view name) {
  return *std::ranges::find(cl::Tunables(), name, &cl::Tunable::name);
}

std::string Key(const cl::DeviceTraits& from, const cl::DeviceTraits& to) {
  return fmt::format("{}", fmt::join(cl::ShapeChanges(from, to), ","));
}

// What the first call of a case leaves. The same calls come first in every form, so that they use
// the same weights.
Floats FirstResult(const ClDevice& device, const KernelCase& c, cl::Kernels& kernels) {
  const PreparedKernel prepared = c.prepare(kernels);
  prepared.run(1);
  Floats values(prepared.result->bytes() / sizeof(float));
  device.BlockingRead(prepared.result->get(), 0, values.data(), prepared.result->bytes());
  return values;
}

Comparison GeometricMeans(const std::vector<Comparison>& cases) {
  Comparison mean;
  for (int pair = 0; pair < kPairs; ++pair) {
    double sum = 0;
    for (const Comparison& c : cases) sum += std::log(c.ratios[static_cast<std::size_t>(pair)]);
    mean.ratios.push_back(std::exp(sum / static_cast<double>(cases.size())));
  }
  return mean;
}

}  // namespace

KernelTuner::KernelTuner(const ClDevice& device, const KernelTuneOptions& options, Say say,
                         ProgressSink* progress)
    : device_(device),
      options_(options),
      say_(std::move(say)),
      progress_(progress),
      timer_(device, EffortFor(options.quick), [this] { Check(); }),
      cases_(device, options.formats, options.quick),
      table_(device, cl::DefaultCacheDir(), cl::TraitsOf(device)),
      start_(std::make_shared<cl::Kernels>(device, cl::DefaultCacheDir())),
      best_(start_),
      began_(Now()) {
  known_.insert(Key(table_.traits(), start_->traits()));
}

// Nobody needs their binaries later.
KernelTuner::~KernelTuner() {
  std::error_code ignored;
  if (!CandidateCache().empty()) fs::remove_all(CandidateCache(), ignored);
}

void KernelTuner::Check() const {
  if (progress_ == nullptr) return;
  progress_->Update(0);
  if (progress_->Cancelled()) throw Stopped{};
}

double KernelTuner::SecondsLeft() const { return options_.minutes * 60 - (Now() - began_); }

void KernelTuner::CheckSame(cl::Kernels& candidate, const KernelCase& c) {
  // Two roundings to bf16 apart, in experts one after the other; f32 sums only by their order.
  const double bound = c.kernel == "rmsnorm" ? kFloatBound : 6 * kBf16Bound;
  const Floats table = FirstResult(device_, c, table_);
  const double error =
      NormalizedError(Doubles(table.begin(), table.end()), FirstResult(device_, c, candidate));
  if (error <= bound) return;
  Throw<OpenClError>("{} differs from the table's result by {:.2g}, expected at most {:.2g}",
                     Line(c), error, bound);
}

void KernelTuner::Measure(cl::Kernels& base, cl::Kernels& candidate,
                          const std::vector<KernelCase>& cases, KernelTrial& trial, bool may_stop) {
  std::vector<Comparison> all;
  trial.worst = 1e9;
  for (const KernelCase& c : cases) {
    Check();
    CheckSame(candidate, c);
    const auto batches = timer_.Batches({c.prepare(base).run, c.prepare(candidate).run});
    Comparison& one = all.emplace_back();
    for (std::size_t i = 0; i < batches[0].size(); ++i) {
      one.ratios.push_back(batches[0][i] / batches[1][i]);
    }
    trial.worst = std::min(trial.worst, one.median());
    if (may_stop && trial.worst < kClearlySlower) break;
  }
  trial.cases = all.size();
  trial.pairs = GeometricMeans(all);
  trial.kept = trial.pairs.Helps() && trial.worst >= kLeastCase;
}

void KernelTuner::Try(const ShapeAxis& axis, std::int64_t value) {
  const cl::Tunable& tunable = TunableOf(axis.tunable);
  const std::int64_t before = tunable.get(best_->traits());
  cl::DeviceTraits traits = best_->traits();
  tunable.set(traits, value);
  if (!cl::WhyNot(traits, device_.info()).empty()) return;
  if (!known_.insert(Key(table_.traits(), traits)).second) return;
  const std::vector<KernelCase> cases = cases_.For(WorkOf(axis.tunable, before, value, traits));
  if (cases.empty()) return;
  KernelTrial trial{fmt::format("{}={}", axis.tunable, value), {}, 1, 0, false, {}};
  if (progress_ != nullptr) progress_->Begin("trying " + trial.change, 0);
  auto candidate = std::make_shared<cl::Kernels>(device_, CandidateCache(), traits);
  try {
    Measure(*best_, *candidate, cases, trial, /*may_stop=*/true);
    say_(fmt::format("{:>8}  {:<7}  {:<18}  {} cases, worst {}", Percent(trial.pairs.median()),
                     trial.kept ? "kept" : "dropped", trial.change, trial.cases,
                     Percent(trial.worst)));
  } catch (const OpenClError& error) {
    trial.failure = error.what();
    say_(fmt::format("{:>8}  {:<7}  {:<18}  {}", "", "failed", trial.change, trial.failure));
  }
  if (progress_ != nullptr) progress_->End();
  if (trial.kept) best_ = std::move(candidate);
  trials_.push_back(std::move(trial));
}

bool KernelTuner::Pass() {
  bool kept = false;
  for (const ShapeAxis& axis : AxesFor(table_.traits())) {
    for (const std::int64_t value : axis.values) {
      if (SecondsLeft() <= 0) return false;
      Try(axis, value);
      kept = kept || (!trials_.empty() && trials_.back().kept);
    }
  }
  return kept;
}

// Whether what was kept is faster as a whole.
bool KernelTuner::WinsAsAWhole(KernelTuneResult& result) {
  KernelTrial total;
  if (progress_ != nullptr) progress_->Begin("comparing start and end", 0);
  Measure(*start_, *best_, cases_.For(WholeWork()), total, /*may_stop=*/false);
  if (progress_ != nullptr) progress_->End();
  result.total = std::move(total.pairs);
  if (result.total.median() > 1) return true;
  say_("the start is as fast as all changes together: it is given back");
  return false;
}

// The kernels that are not timed here have the same shapes.
bool KernelTuner::PassesSelfTest() {
  if (progress_ != nullptr) progress_->Begin("self-test of all kernels in the new shapes", 0);
  SelfTestScope scope;
  scope.formats = options_.formats;
  scope.kv_types = {DType::kF16};
  const std::vector<SelfTestRow> rows = RunSelfTest(*best_, scope);
  if (progress_ != nullptr) progress_->End();
  const auto failed = std::ranges::find_if_not(rows, &SelfTestRow::passes);
  if (failed == rows.end()) return true;
  say_(
      fmt::format("'{}' ({}, {}) computes wrong numbers in these shapes (error {:.2g}, bound "
                  "{:.2g}): the start is given back",
                  failed->family, failed->shape, failed->format, failed->error, failed->bound));
  return false;
}

KernelTuneResult KernelTuner::Run() {
  KernelTuneResult result;
  result.before = cl::ShapeChanges(table_.traits(), start_->traits());
  result.shapes.changes = result.before;
  bool wins = false;
  try {
    if (Pass()) Pass();
    result.end = SecondsLeft() > 0 ? TuneEnd::kNothingLeft : TuneEnd::kTime;
    wins = best_ != start_ && WinsAsAWhole(result);
  } catch (const Stopped&) {
    if (progress_ != nullptr) progress_->End();
    result.end = TuneEnd::kInterrupted;
    wins = best_ != start_;  // each of its changes did
  }
  if (wins && PassesSelfTest()) {
    result.shapes.changes = cl::ShapeChanges(table_.traits(), best_->traits());
  }
  result.trials = std::move(trials_);
  return result;
}

}  // namespace tandem
