#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/quantized_model.h"
#include "model/recipe.h"
#include "model/tensor_source.h"
#include "runtime/progress.h"

namespace tandem {

struct ConvertOptions {
  std::string out;
  Recipe recipe;
  int threads = 0;         // 0: all that there are
  bool overwrite = false;  // a file that is there already
};

// Values and bytes of one role in one format.
struct ConvertedPart {
  Role role;
  DType format;
  std::int64_t values = 0;
  std::uint64_t bytes = 0;
};

struct ConvertResult {
  std::uint64_t file_bytes = 0;
  double seconds = 0;
  std::vector<ConvertedPart> parts;  // by role
  std::vector<UnfitFormat> unfit;
  std::vector<std::string> notes;  // what the file does not hold
};

// Writes a model as one GGUF file, quantised by the recipe, with several threads that hold a few
// MiB each. Throws UsageError if the file is there, CheckpointError for a model without a form in
// GGUF, SystemError (74) if the disk is full; then no file is left behind.
ConvertResult Convert(const Model& model, const ConvertOptions& options, ProgressSink* progress);

}  // namespace tandem
