#include "runtime/watchdog.h"

#include <cstdlib>

#include "memory/error.h"

namespace tandem {
namespace {

// Read at every step: a test may set it after others have run.
Seconds Replaced(Seconds limit) {
  const char* text = std::getenv("TANDEM_WATCHDOG_S");
  if (text == nullptr || *text == '\0') return limit;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end != '\0' || !(seconds > 0)) {
    Throw<ConfigError>("TANDEM_WATCHDOG_S: expected seconds above 0, found '{}'", text);
  }
  return Seconds(seconds);
}

}  // namespace

Seconds WatchdogOf(std::int64_t rows, const ClDeviceInfo& device) {
  const bool few = rows <= kWatchdogFewRows && !device.is_cpu;
  return Replaced(few ? kDecodeWatchdog : kPrefillWatchdog);
}

Seconds DrainWatchdog() { return Replaced(kDrainWatchdog); }

}  // namespace tandem
