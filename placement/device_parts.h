#pragma once

#include <cstdint>

#include "model/tensor_list.h"

namespace tandem {

// How matrices lie in the buffers of a device. The planner counts and loading allocates by this.

inline constexpr std::uint64_t kDeviceAlign = 256;  // cl_kernels/span.h, Weight

// Rows that a part of a matrix is a multiple of: FP8's scale blocks, and whole tiles of kernels.
inline constexpr std::int64_t kPartRows = 128;

struct DeviceSizes {
  std::uint64_t data = 0;
  std::uint64_t side = 0;  // scales of FP8, side arrays of block formats
  // Each rounded up to kDeviceAlign.
  std::uint64_t bytes() const;
};
// Of so many rows of a matrix. Block formats lie split (memory/split_layout.h), others as in a
// file.
DeviceSizes SizesOnDevice(const TensorInfo& matrix, std::int64_t rows);

// Whether parts of its rows may lie in different buffers: not where a kernel goes through heads,
// nor in an expert, whose three matrices lie in one slot.
bool MayBeSplit(const TensorInfo& matrix);

// Rows of each part but the last for buffers of at most `max_bytes`: all where they fit, else as
// few parts as possible, of nearly equal size. Of a matrix that may not be split, and of one of
// which kPartRows rows do not fit, a part may be larger than max_bytes: see LeastBuffer.
std::int64_t RowsOfPart(const TensorInfo& matrix, std::uint64_t max_bytes);

// What all parts take.
std::uint64_t BytesOnDevice(const TensorInfo& matrix, std::uint64_t max_bytes);

// The largest range that must lie in one buffer, however small buffers are.
std::uint64_t LeastBuffer(const TensorInfo& matrix);

}  // namespace tandem
