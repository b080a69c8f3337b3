#pragma once

#include <cstdint>
#include <string>

namespace tandem {

// Where something lives or runs: the host (its rows shared out over the NUMA nodes of the plan) or
// an OpenCL device, named by its index in the plan's list.
struct Place {
  enum class Kind : std::uint8_t { kHost, kDevice };
  Kind kind = Kind::kHost;
  int index = 0;  // of the device; 0 for the host

  static constexpr Place Host() { return {}; }
  static constexpr Place Device(int index) { return {Kind::kDevice, index}; }
  constexpr bool on_device() const { return kind == Kind::kDevice; }
  friend constexpr bool operator==(const Place&, const Place&) = default;
};

inline std::string ToString(Place place) {
  return place.on_device() ? "device" + std::to_string(place.index) : "host";
}

}  // namespace tandem
