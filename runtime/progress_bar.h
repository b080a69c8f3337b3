#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "runtime/progress.h"

namespace tandem {

// "loading 1.2 of 13.4 GiB, 2.1 GiB/s, 6 s left"
std::string ProgressLine(std::string_view what, std::uint64_t done, std::uint64_t total,
                         double seconds);

// Shows progress on stderr: one line redrawn ten times a second on a terminal, elsewhere a plain
// line every few seconds, so that short work says nothing there.
class ProgressBar final : public ProgressSink {
 public:
  enum class Style : std::uint8_t { kQuiet, kPlain, kTerminal };
  // `cancelled` is asked by the work, from any thread.
  ProgressBar(Style style, std::FILE* out, std::function<bool()> cancelled);
  // kTerminal if stderr is one, kPlain if not, kQuiet on request.
  static Style StyleOf(bool quiet);

  void Begin(std::string_view what, std::uint64_t total_bytes) override;
  void Update(std::uint64_t done_bytes) override;
  void End() override;
  bool Cancelled() const override { return cancelled_(); }

 private:
  using Clock = std::chrono::steady_clock;
  void Show(Clock::time_point now);

  Style style_;
  std::FILE* out_;  // non-owning
  std::function<bool()> cancelled_;
  std::mutex mutex_;  // of the output and all below but done_
  std::string what_;
  std::uint64_t total_ = 0;
  std::atomic<std::uint64_t> done_{0};
  Clock::time_point start_;
  Clock::time_point shown_;
};

}  // namespace tandem
