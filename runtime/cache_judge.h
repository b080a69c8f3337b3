#pragma once

#include <cstdint>
#include <string>

namespace tandem {

// Whether a cache of experts gains anything: now and then it pauses for a few steps, and the steps
// with and without it, of as many rows and next to each other, are compared. Twice in a row slower
// with it, and it is off. The pauses grow rarer as it keeps winning.
class CacheJudge {
 public:
  static constexpr std::int64_t kSample = 16;       // steps that are compared
  static constexpr std::int64_t kFirstPeriod = 64;  // steps before the first pause
  static constexpr std::int64_t kMostPeriod = 4096;
  static constexpr double kMargin = 0.02;  // a loss that counts
  static constexpr int kLosses = 2;

  enum class Verdict { kGoOn, kPause, kResume, kOff };
  // After every step.
  Verdict Step(std::int64_t rows, double seconds);
  // Means of the last comparison, in words.
  std::string Why() const;

 private:
  Verdict Serving();
  Verdict Paused();

  std::int64_t rows_ = 0;
  bool paused_ = false, off_ = false;
  std::int64_t steps_ = 0;  // since the last change, or since rows_ changed
  std::int64_t period_ = kFirstPeriod;
  double sum_ = 0;  // seconds of the sample in progress
  double with_ = 0, without_ = 0;
  int losses_ = 0;
};

}  // namespace tandem
