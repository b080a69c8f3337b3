#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

// How a layer with experts on both sides passes between a device and the CPU.
enum class HandOverWay : std::uint8_t {
  kAuto,    // polled where the device has memory for it and cores of its own
  kPolled,  // memory that both see; few rows only, more by events
  kEvents,
};
std::string_view Name(HandOverWay way);  // "auto", "polled", "events"

}  // namespace tandem
