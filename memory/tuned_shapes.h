#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "memory/cl_device.h"

namespace tandem {

// Kernel shapes that `tandem tune kernels` found for a device, in a file of "key: value" lines that
// a person can read, change and remove: what it was measured on, and what differs from the table of
// cl_kernels/device_traits.cpp. It counts for that device, driver, platform version and program
// version. What the names mean, and which values there are, cl_kernels/tunables.h knows.
struct TunedShapes {
  std::vector<std::string> changes;  // "teams=4"; empty: the table
  std::string when = {};             // of the measurement; empty: not measured
  std::filesystem::path file = {};   // where they are, or would be; empty: no cache folder
  std::string problem = {};          // why a file that is there is not used
  bool forced = false;               // by TANDEM_KERNEL_SHAPES
};

// $XDG_CACHE_HOME/tandem/shapes; empty where there is no cache folder.
std::filesystem::path ShapesFolder();

// Never throws for what a file holds. TANDEM_KERNEL_SHAPES=table takes the table, and
// TANDEM_KERNEL_SHAPES=teams=4,wide_rows=2 these shapes, whatever is stored.
TunedShapes LoadShapes(const std::filesystem::path& folder, const ClDeviceInfo& device);
// Writes `changes` and `when` (temporary file, fsync, rename) and gives the file. Throws
// SystemError.
std::filesystem::path StoreShapes(const std::filesystem::path& folder, const ClDeviceInfo& device,
                                  const TunedShapes& shapes);

// For a person: "of the table", "teams=4, wide_rows=4, measured 2026-11-22 (FILE)".
std::string ToText(const TunedShapes& shapes);
// "" or one sentence: that `problem` keeps the file from being used, and the way out.
std::string WarningOf(const TunedShapes& shapes);

}  // namespace tandem
