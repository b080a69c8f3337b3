#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cl_kernels/args.h"
#include "runtime/engine.h"
#include "runtime/kv_cache.h"

namespace tandem {

// What a step's rows have in one buffer of a layer's KV cache on the device: its blocks are
// numbered from 0 on, and a row's keys there are those of the row's blocks that are, in their
// order.
struct KvPart {
  std::span<std::int32_t> slots;        // [T] -1: the row's own key goes to another buffer
  std::span<std::int32_t> n_keys;       // [T]
  std::span<std::int32_t> table_start;  // [T] into tables
  std::span<std::int32_t> tables;
  cl::Span device_slots, device_n_keys, device_table_start, device_tables;
};

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

  // For each buffer of a layer's KV cache on the device (KvBuffersOf): one is the above.
  std::vector<KvPart> kv_parts;
  std::int64_t kv_part_blocks = 0;  // in each buffer but the last

  // The same in one device buffer, filled where a device runs attention.
  cl::Span device_cos_sin, device_slots, device_n_keys, device_table_start, device_tables;
};

// batch.memory, kv_parts' number and kv_part_blocks are set. `inv_freq` [d/2] and `factor` as
// Config gives them. The rows are already counted in `blocks`.
void FillBatch(Batch& batch, std::span<const Row> rows, const KvBlocks& blocks,
               std::span<const double> inv_freq, double factor);

}  // namespace tandem
