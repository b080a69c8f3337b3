#pragma once

#include <cstdint>

#include "model/config.h"
#include "placement/plan.h"

namespace tandem {

// How attention on the host cuts its work, and the memory that takes.

// Rows and queries (rows times heads) of a ticket in the absorbed form, keys that are expanded at a
// time, and rows of a ticket in the expanded form.
inline constexpr std::int64_t kAbsorbedRows = 16;
inline constexpr std::int64_t kAbsorbedQueries = 128;
inline constexpr std::int64_t kExpandedKeys = 256;
inline constexpr std::int64_t kExpandedRows = 512;

// A row's keys are attended to in ranges of this length, merged in rising order: a function of
// their number alone, so that results do not depend on threads.
constexpr std::int64_t RangeKeys(std::int64_t n_keys) {
  return n_keys <= 4096 ? 256 : n_keys <= 65536 ? 1024 : 4096;
}
constexpr std::int64_t Ranges(std::int64_t n_keys) {
  return (n_keys + RangeKeys(n_keys) - 1) / RangeKeys(n_keys);
}

// From so many rows of one sequence on, K and V made of the latent cost fewer multiply-adds than
// the absorbed form: nope + rope + v + (nope + v) R / rows against 2 R + rope, per key, row, head.
constexpr std::int64_t LeastExpandedRows(const Config& c) {
  const std::int64_t head = c.qk_nope_head_dim + c.v_head_dim;
  const std::int64_t saved = 2 * c.kv_lora_rank - head;
  return saved <= 0 ? c.max_position_embeddings + 1 : head * c.kv_lora_rank / saved + 1;
}

// Attention on a device: rows of a launch of the absorbed form, whose queries and partial results
// are H times as wide as a row, as many as the device's largest buffer takes; and heads times runs
// of keys that fill a device (cl::kMlaParts).
std::int64_t DeviceMlaRows(const Config& config, const Plan& plan);
inline constexpr std::int64_t kDeviceMlaParts = 16 * 528;

// Up to so many rows of a step, the launch that makes MLA's queries on a device also appends the
// rows' keys to the cache; more take a launch of their own.
inline constexpr std::int64_t kDeviceMlaAppendRows = 16;

// The expanded form on a device makes keys and values of as many whole blocks of keys at a time as
// the absorbed form's queries and partial results have room for (runtime/mla_device.cpp), of one at
// the least: its latents and roped keys, and what is made of them.
struct DeviceExpandedFloats {
  explicit DeviceExpandedFloats(const Config& c)
      : latents(64 * c.kv_width()),
        expanded(64 * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim)) {}
  std::int64_t latents;
  std::int64_t expanded;
};

// The expanded form's room for a ticket of `rows` rows: W_UK of a k_b brought into rows, latents in
// three forms, what is made of them, and maxima and sums.
std::int64_t ExpandedFloats(const Config& c, std::int64_t rows);

// In floats, each part on cache lines. MHA needs neither queries of its own nor maps.
struct AttentionScratch {
  AttentionScratch(const Config& config, const Plan& plan);

  // Of the team: partial results of the ranges of few rows, by row and head.
  std::int64_t shared_rows = 0;  // rows whose ranges may be shared out
  std::int64_t slots = 0;        // ranges of single rows
  std::int64_t absorbed = 0;     // [shared_rows, H, width]
  std::int64_t parts = 0;        // [slots, H, R]
  std::int64_t states = 0;       // [slots, H] maxima, then sums

  // Of a worker.
  std::int64_t queries = 0;  // of a ticket
  std::int64_t block_pointers = 0;
  std::int64_t tile_queries = 0;  // [queries, width]
  std::int64_t tile_out = 0;      // [queries, R], twice
  std::int64_t tile_state = 0;    // maxima and sums, twice, and numbers of keys
  std::int64_t kernel = 0;        // AttentionArgs::scratch
  std::int64_t packed = 0;        // AttentionArgs::packed
  std::int64_t maps = 0;          // HeadMaps
  std::int64_t expanded = 0;      // the expanded form's keys, values and inputs
  std::int64_t worker() const;
};

}  // namespace tandem
