#pragma once

#include <chrono>
#include <thread>

namespace tandem {

using Seconds = std::chrono::duration<double>;

// A device that says nothing for so long is lost.
inline constexpr Seconds kHandOverWatchdog{30.0};

// Waits for a device: spins for as long as a layer may take, because a sleep lasts 50 us and more,
// then sleeps between looks. Where the device shares the cores a spin would starve it.
class DeviceWait {
 public:
  DeviceWait(bool shares_cores, Seconds limit) : spin_(shares_cores ? 5e-6 : 5e-4), limit_(limit) {}

  // False when the limit has passed and `ready` is still false.
  template <class Ready>
  bool Until(Ready&& ready) {
    while (!ready()) {
      waited_ = Clock::now() - begin_;
      if (waited_ > limit_) return false;
      if (waited_ > spin_) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    waited_ = Clock::now() - begin_;
    return true;
  }
  double waited_s() const { return waited_.count(); }

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin_ = Clock::now();
  Seconds spin_, limit_;
  Seconds waited_{0.0};
};

}  // namespace tandem
