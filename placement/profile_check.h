#pragma once

#include "memory/dtype.h"
#include "model/config.h"
#include "placement/machine.h"
#include "placement/profile.h"

namespace tandem {

// The ranges that values of a profile may have, for the parser and for flags that override it.
struct ProfileLimits {
  static constexpr std::int64_t kContext = std::int64_t{1} << 24;
  static constexpr std::int64_t kSequences = 4096;
  static constexpr std::int64_t kChunk = 65536;
  static constexpr std::int64_t kThreads = 4096;
  static constexpr std::int64_t kLayers = 65536;
  static constexpr std::int64_t kExperts = 65536;
};

// Throws ConfigError if a value is out of its range or names what the model does not have: an
// expert, a layer.
void CheckProfile(const Profile& profile, const Config& config);

// Whether any role may go to a device, by choice or by demand.
bool WantsDevice(const Profile& profile);

// For a plan without a device. Throws ConfigError if the profile says `device: none` and demands a
// role on it; OpenClError if a device was looked for, is demanded, and there is none.
void CheckNothingDemanded(const Profile& profile, const Machine& machine);

// The profile's, or f32 for exact and f16 for fast runs.
DType KvType(const Profile& profile, Precision precision);

}  // namespace tandem
