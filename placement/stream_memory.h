#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

// Where experts of the host that stream to a device are copied from.
enum class StreamMemory : std::uint8_t {
  kAuto,    // locked where the device's copies are as quick from there
  kLocked,  // the weights themselves, locked in memory for the device
  kRing,    // pinned pieces that the CPU copies them to before
};
std::string_view Name(StreamMemory memory);  // "auto", "locked", "ring"

}  // namespace tandem
