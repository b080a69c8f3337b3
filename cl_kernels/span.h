#pragma once

#include <CL/cl.h>

#include <cstdint>

#include "memory/dtype.h"

namespace tandem::cl {

// A range of f32 (or other) values in a device buffer.
struct Span {
  cl_mem buffer = nullptr;
  std::int64_t offset = 0;  // elements
};

// A matrix [rows, cols], row-major, in device memory. FP8: scales f32 [ceil(rows/128),
// ceil(cols/128)] at scale_offset of the same buffer. Block formats: codes at offset, side data at
// scale_offset, as memory/split_layout.h lays them out. Offsets are multiples of 256 bytes.
// A matrix above the device's largest buffer is a list of such parts, whose rows follow each other
// and are multiples of 128 in all but the last: only Kernels::Linear takes one.
struct Weight {
  cl_mem buffer = nullptr;
  std::uint64_t offset = 0;        // bytes
  std::uint64_t scale_offset = 0;  // bytes
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const Weight* next = nullptr;  // the part with the rows behind these; null: this is the last
};

}  // namespace tandem::cl
