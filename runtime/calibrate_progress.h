#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "runtime/progress_bar.h"

namespace tandem {

// "calibrating: 1200 of 5000 tokens, 310 tokens/s, 12 s left"
std::string CalibrationLine(std::int64_t done, std::int64_t total, double seconds,
                            std::string_view what = "calibrating");

// Shows how far a run over a text is, in the manner of ProgressBar, which counts bytes.
class CalibrationProgress {
 public:
  CalibrationProgress(ProgressBar::Style style, std::FILE* out, std::string what = "calibrating");
  void Update(std::int64_t done, std::int64_t total);
  void End();

 private:
  using Clock = std::chrono::steady_clock;

  ProgressBar::Style style_;
  std::FILE* out_;  // non-owning
  std::string what_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = start_;
};

}  // namespace tandem
