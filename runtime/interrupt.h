#pragma once

#include <csignal>

namespace tandem {

// While one lives, the first SIGINT only sets a flag, which the work polls between steps, and the
// second ends the process at once with exit code 130. One at a time in a process.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction previous_ = {};
};

// Whether a SIGINT came since the guard was made or ClearInterrupt was called.
bool Interrupted();
void ClearInterrupt();

// Ends work that has nothing to show when it is cut short: an Error with the exit code that shells
// give a process ended by SIGINT, 130.
[[noreturn]] void ThrowInterrupted();

}  // namespace tandem
