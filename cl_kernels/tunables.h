#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cl_kernels/device_traits.h"
#include "memory/tuned_shapes.h"

namespace tandem::cl {

// A shape of DeviceTraits that may be chosen by hand (`tandem bench kernels --with`) or by timing
// (`tandem tune kernels`).
struct Tunable {
  std::string_view name;
  std::vector<std::int64_t> values;  // that the kernels take; empty: from 1 on
  std::int64_t (*get)(const DeviceTraits&);
  void (*set)(DeviceTraits&, std::int64_t);
};
const std::vector<Tunable>& Tunables();

// `traits` with changes "name=value". Throws UsageError, whose text begins with `where` ("--with",
// a file's name), for another name, and for a value or a combination that the kernels or the
// device's work-groups and local memory do not take.
DeviceTraits WithShapes(DeviceTraits traits, const std::vector<std::string>& changes,
                        const ClDeviceInfo& device, std::string_view where);
// The same without a device, and why one does not take the result; empty: it does.
DeviceTraits WithShapes(DeviceTraits traits, const std::vector<std::string>& changes,
                        std::string_view where);
std::string WhyNot(const DeviceTraits& traits, const ClDeviceInfo& device);

// The same with a `problem` instead of changes that are no shapes, or none for this device. Throws
// ConfigError for what TANDEM_KERNEL_SHAPES says if no device could take it.
TunedShapes Checked(TunedShapes shapes, const ClDeviceInfo& device);

// What of the tunables differs, as WithShapes takes it.
std::vector<std::string> ShapeChanges(const DeviceTraits& from, const DeviceTraits& to);

}  // namespace tandem::cl
