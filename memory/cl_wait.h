#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace tandem {

using Seconds = std::chrono::duration<double>;

// Waits for a device: spins for as long as a layer may take, because a sleep lasts 50 us and more,
// then sleeps between looks, longer as the wait grows. Where the device shares the cores a spin
// would starve it.
class DeviceWait {
 public:
  DeviceWait(bool shares_cores, Seconds limit, Seconds spin = Seconds{5e-4})
      : spin_(shares_cores ? Seconds{5e-6} : spin), limit_(limit) {}

  // False when the limit has passed and `ready` is still false.
  template <class Ready>
  bool Until(Ready&& ready) {
    while (!ready()) {
      waited_ = Clock::now() - begin_;
      if (waited_ > limit_) return false;
      if (waited_ > spin_) std::this_thread::sleep_for(Pause());
    }
    waited_ = Clock::now() - begin_;
    return true;
  }
  double waited_s() const { return waited_.count(); }

 private:
  using Clock = std::chrono::steady_clock;
  // A thousandth of what has passed: late by nobody's measure, and cheap in a wait of seconds.
  Seconds Pause() const { return std::clamp(waited_ / 1000, Seconds{1e-5}, Seconds{1e-3}); }

  const Clock::time_point begin_ = Clock::now();
  Seconds spin_, limit_;
  Seconds waited_{0.0};
};

}  // namespace tandem
