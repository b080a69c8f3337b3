#include "runtime/interrupt.h"

#include <unistd.h>

#include <atomic>

#include "memory/error.h"

namespace tandem {
namespace {

// A signal handler has no argument of ours, so its flag is the one global of the program.
std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

constexpr int kKilledBySigint = 128 + SIGINT;

void OnSigint(int) {
  if (g_interrupted.exchange(true)) _exit(kKilledBySigint);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  ClearInterrupt();
  struct sigaction action = {};
  action.sa_handler = OnSigint;
  sigemptyset(&action.sa_mask);
  TANDEM_CHECK(sigaction(SIGINT, &action, &previous_) == 0);
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &previous_, nullptr); }

bool Interrupted() { return g_interrupted.load(std::memory_order_relaxed); }
void ClearInterrupt() { g_interrupted.store(false); }

void ThrowInterrupted() { throw Error(static_cast<ExitCode>(kKilledBySigint), "interrupted"); }

}  // namespace tandem
