#pragma once

#include <CL/cl.h>

#include <cstdint>

#include "cl_kernels/span.h"

namespace tandem::cl {

// Words of the memory that host and device both see (step_feed.cl).
inline constexpr std::int64_t kFeedFed = 0, kFeedDropped = 1, kFeedChosen = 16, kFeedLate = 32,
                              kFeedIds = 64;
inline constexpr std::int64_t kFeedControlWords = 16;  // on the device, zeroed at first

// batch[0, n_words) = shared[words, ..); x[0, n) = shared[rows, ..) once the host has fed step
// `step`; waits for at most `turns` reads. `words` and `rows` are multiples of 4, `batch` and `x`
// the beginnings of buffers.
struct FeedTakeArgs {
  cl_mem shared = nullptr;
  cl_mem control = nullptr;
  std::int64_t words = 0, n_words = 0;
  cl_mem batch = nullptr;
  std::int64_t rows = 0, n = 0;
  cl_mem x = nullptr;
  std::uint32_t step = 0;
  std::uint64_t turns = 0;
};

// ArgmaxArgs' parts into shared from kFeedIds on, then the step's number.
struct ArgmaxPublishArgs {
  Span logits;  // f32 [rows, V]
  std::int64_t rows = 0;
  std::int64_t V = 0;
  cl_mem shared = nullptr;
  cl_mem control = nullptr;
  std::uint32_t step = 0;
};

}  // namespace tandem::cl
