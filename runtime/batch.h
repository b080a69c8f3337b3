#pragma once

#include <cstdint>
#include <span>

#include "cl_kernels/args.h"
#include "runtime/engine.h"
#include "runtime/kv_cache.h"

namespace tandem {

// What a step's rows mean for attention: angles, places in the KV cache, numbers of keys. Made once
// per step and used by every layer, on both sides.
struct Batch {
  std::span<const Row> rows;
  std::int64_t T = 0;
  std::span<float> memory;         // one after another, packed: what follows (i32 as their bits)
  std::span<float> cos_sin;        // [T, d/2, 2]
  std::span<std::int32_t> slots;   // [T] block * 64 + position % 64
  std::span<std::int32_t> n_keys;  // [T] position + 1
  std::span<std::int32_t> table_start;  // [T] into tables
  std::span<std::int32_t> tables;       // block tables of the step's sequences, one after another
  std::int64_t words = 0;               // of memory in use

  // The same in one device buffer, filled where a device runs attention.
  cl::Span device_cos_sin, device_slots, device_n_keys, device_table_start, device_tables;
};

// batch.memory is set. `inv_freq` [d/2] and `factor` as Config gives them. The rows are already
// counted in `blocks`.
void FillBatch(Batch& batch, std::span<const Row> rows, const KvBlocks& blocks,
               std::span<const double> inv_freq, double factor);

}  // namespace tandem
