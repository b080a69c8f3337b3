#pragma once

#include <cstdint>
#include <string>

#include "runtime/progress.h"

namespace tandem {

// What was looked at, all of it good.
struct VerifyResult {
  std::int64_t files = 0;
  std::int64_t tensors = 0;
  std::uint64_t bytes = 0;  // of tensors
  std::int64_t hashed = 0;  // tensors whose hash agrees with the file's own
  double seconds = 0;
};

// Reads all weights of a GGUF file (with its other parts) or of a model folder: structure and sizes
// as when opening it, then every value and block scale, which must be finite, and of files that
// `tandem convert` wrote the hash of each tensor. Throws one CheckpointError naming every tensor
// that is damaged, with the block where that is known.
VerifyResult Verify(const std::string& path, int threads, ProgressSink* progress);

}  // namespace tandem
