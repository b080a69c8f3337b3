#pragma once

#include <cstdint>
#include <vector>

#include "runtime/weight_layout.h"

namespace tandem {

// Reads all tasks with several threads and returns the bytes. The first failure, or a cancel, stops
// all of them and is thrown. `devices` are those of the plan.
std::uint64_t ReadWeights(const TensorSource& source, const std::vector<LoadTask>& tasks,
                          const ClDevices& devices, const std::string& what,
                          ProgressSink* progress);

}  // namespace tandem
