#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

// Whether the next decode step is enqueued while one runs, where a device runs all of the model but
// experts (runtime/step_feed.h). What that gives under a plan: StepsAhead (step_feed_shape.h).
enum class StepAheadWish : std::uint8_t {
  kAuto,  // kAutoStepAhead on a GPU that has the memory for it; never on a device of the CPU's
          // cores
  kOn,
  kOff,
};
std::string_view Name(StepAheadWish wish);  // "auto", "on", "off"

// What auto means on GPUs.
inline constexpr bool kAutoStepAhead = true;

}  // namespace tandem
