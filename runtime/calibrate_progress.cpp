#include "runtime/calibrate_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

constexpr auto kTerminalPeriod = std::chrono::milliseconds(100);
constexpr auto kPlainPeriod = std::chrono::seconds(5);

}  // namespace

std::string CalibrationLine(std::int64_t done, std::int64_t total, double seconds,
                            std::string_view what) {
  std::string line = fmt::format("{}: {} of {} tokens", what, done, total);
  if (done < 1 || seconds <= 0) return line;
  const double rate = static_cast<double>(done) / seconds;
  const auto left = static_cast<double>(std::max<std::int64_t>(0, total - done));
  return line + fmt::format(", {:.0f} tokens/s, {:.0f} s left", rate, left / rate);
}

CalibrationProgress::CalibrationProgress(ProgressBar::Style style, std::FILE* out, std::string what)
    : style_(style), out_(out), what_(std::move(what)) {}

void CalibrationProgress::Update(std::int64_t done, std::int64_t total) {
  const bool terminal = style_ == ProgressBar::Style::kTerminal;
  const auto now = Clock::now();
  const auto period = terminal ? Clock::duration(kTerminalPeriod) : Clock::duration(kPlainPeriod);
  if (style_ == ProgressBar::Style::kQuiet || now - shown_ < period) return;
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string line = CalibrationLine(done, total, seconds, what_);
  if (terminal) {
    fmt::print(out_, "\r\033[K{}", line);
  } else {
    fmt::print(out_, "tandem: {}\n", line);
  }
  std::fflush(out_);
}

void CalibrationProgress::End() {
  if (style_ != ProgressBar::Style::kTerminal) return;
  fmt::print(out_, "\r\033[K");
  std::fflush(out_);
}

}  // namespace tandem
