#include "runtime/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

constexpr double kGib = 1024.0 * 1024 * 1024;
constexpr auto kTerminalPeriod = std::chrono::milliseconds(100);
constexpr auto kPlainPeriod = std::chrono::seconds(5);

}  // namespace

std::string ProgressLine(std::string_view what, std::uint64_t done, std::uint64_t total,
                         double seconds) {
  if (total == 0) return fmt::format("{}, {:.0f} s", what, seconds);
  const double done_gib = static_cast<double>(done) / kGib;
  const double total_gib = static_cast<double>(total) / kGib;
  const double rate = seconds > 0 ? done_gib / seconds : 0;
  std::string line = fmt::format("{} {:.2f} of {:.2f} GiB", what, done_gib, total_gib);
  if (rate > 0) {
    const double left_s = std::max(0.0, total_gib - done_gib) / rate;
    line += fmt::format(", {:.2f} GiB/s, {:.0f} s left", rate, left_s);
  }
  return line;
}

ProgressBar::ProgressBar(Style style, std::FILE* out, std::function<bool()> cancelled)
    : style_(style), out_(out), cancelled_(std::move(cancelled)) {}

ProgressBar::Style ProgressBar::StyleOf(bool quiet) {
  if (quiet) return Style::kQuiet;
  return isatty(STDERR_FILENO) == 1 ? Style::kTerminal : Style::kPlain;
}

void ProgressBar::Begin(std::string_view what, std::uint64_t total_bytes) {
  const std::lock_guard lock(mutex_);
  what_ = what;
  total_ = total_bytes;
  done_ = 0;
  start_ = shown_ = Clock::now();
  if (style_ == Style::kTerminal) Show(start_);
}

// Called by every loading thread: whoever finds the line being drawn goes on working.
void ProgressBar::Update(std::uint64_t done_bytes) {
  std::uint64_t seen = done_.load(std::memory_order_relaxed);
  while (seen < done_bytes && !done_.compare_exchange_weak(seen, done_bytes)) {
  }
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock || style_ == Style::kQuiet) return;
  const auto now = Clock::now();
  const auto period =
      style_ == Style::kTerminal ? Clock::duration(kTerminalPeriod) : Clock::duration(kPlainPeriod);
  if (now - shown_ >= period) Show(now);
}

void ProgressBar::End() {
  const std::lock_guard lock(mutex_);
  constexpr std::string_view kClearLine = "\r\033[K";
  if (style_ == Style::kTerminal) fmt::print(out_, "{}", kClearLine);
  std::fflush(out_);
}

void ProgressBar::Show(Clock::time_point now) {
  shown_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string line = ProgressLine(what_, done_.load(), total_, seconds);
  if (style_ == Style::kTerminal) {
    fmt::print(out_, "\r\033[K{}", line);
  } else {
    fmt::print(out_, "tandem: {}\n", line);
  }
  std::fflush(out_);
}

}  // namespace tandem
