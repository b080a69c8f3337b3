#include "placement/attention_scratch.h"

#include <algorithm>

#include "placement/scratch.h"

namespace tandem {
namespace {

constexpr std::int64_t kMhaHeads = 16;                           // of a ticket
constexpr std::int64_t kMostPartFloats = std::int64_t{1} << 24;  // beyond a range of every row

constexpr std::int64_t Steps(std::int64_t n) { return (n + 31) / 32 * 32; }

// As the contracts in cpu_kernels/attention.h have them.
std::int64_t KernelFloats(std::int64_t dk, std::int64_t dv) {
  return 128 * Steps(dk) + 64 * Steps(dv) + 4 * 128 * 16 + 16 * (dv + 32) + 256;
}
std::int64_t PackedFloats(std::int64_t n, std::int64_t dk) { return (n + 15) / 16 * 8 * Steps(dk); }

// Rows whose queries and partial results fit into buffers of so many floats each.
std::int64_t MlaRowsIn(const Config& c, std::int64_t floats) {
  const std::int64_t H = c.num_attention_heads;
  return std::min(floats / (H * c.kv_width()), (floats / c.kv_lora_rank - kDeviceMlaParts) / H);
}

}  // namespace

std::int64_t DeviceMlaRows(const Config& c, const Plan& plan) {
  if (c.attention != AttentionKind::kMla) return plan.max_rows;
  constexpr std::int64_t kMostFloats = std::int64_t{40} << 20;
  constexpr std::int64_t kLeastRows = 16;
  const std::int64_t wanted =
      std::max(kMostFloats / (c.num_attention_heads * c.kv_width()), kLeastRows);
  const std::int64_t rows = std::min(plan.max_rows, wanted);
  if (plan.devices.empty()) return rows;
  const std::uint64_t most = plan.devices[0].max_alloc_bytes / sizeof(float);
  const std::int64_t fit =
      MlaRowsIn(c, static_cast<std::int64_t>(std::min<std::uint64_t>(most, INT64_MAX / 2)));
  return fit < 1 ? rows : std::min(rows, fit);  // not even one: the planner refuses
}

std::int64_t ExpandedFloats(const Config& c, std::int64_t rows) {
  const std::int64_t nope = c.qk_nope_head_dim;
  const std::int64_t latents = kExpandedKeys * Steps(c.kv_width());
  return WholeLines((c.kv_lora_rank + 16) * nope) + WholeLines(latents) + WholeLines(latents / 2) +
         WholeLines(QuantizedFloats(latents)) +
         WholeLines(kExpandedKeys * std::max(nope, c.v_head_dim)) +
         WholeLines(kExpandedKeys * (c.qk_head_dim() + c.v_head_dim)) + WholeLines(2 * rows);
}

AttentionScratch::AttentionScratch(const Config& c, const Plan& plan) {
  const std::int64_t H = c.num_attention_heads;
  const std::int64_t R = c.kv_lora_rank;
  const std::int64_t width = c.kv_width();
  block_pointers = WholeLines(2 * plan.kv_blocks);
  if (c.attention == AttentionKind::kMha) {
    queries = std::min(kMhaHeads, H);
    tile_state = WholeLines(3 * queries);
    kernel = WholeLines(KernelFloats(c.v_head_dim, c.v_head_dim));
    return;
  }
  shared_rows = std::min(kAbsorbedRows, plan.max_rows);
  // The number of ranges does not grow with every key.
  const std::int64_t keys = plan.kv_blocks * kKvBlockTokens;
  const std::int64_t ranges = std::max(Ranges(keys), Ranges(std::min<std::int64_t>(keys, 65536)));
  const std::int64_t affordable = std::max(ranges, kMostPartFloats / (H * (R + 2)));
  slots = std::min(shared_rows * ranges, affordable);
  absorbed = WholeLines(shared_rows * H * width);
  parts = WholeLines(slots * H * R);
  states = WholeLines(2 * slots * H);

  queries = std::max(kAbsorbedQueries, shared_rows);
  tile_queries = WholeLines(queries * width);
  tile_out = WholeLines(queries * R);
  tile_state = WholeLines(5 * queries);
  const std::int64_t dk = c.qk_head_dim();
  const std::int64_t v = c.v_head_dim;
  kernel = WholeLines(std::max(KernelFloats(width, R), KernelFloats(dk, v)));
  packed = WholeLines(PackedFloats(queries, width));
  maps = HeadMapFloats(c, shared_rows);
  if (plan.max_rows < LeastExpandedRows(c)) return;
  const std::int64_t rows = std::min(kExpandedRows, plan.max_rows);
  packed = std::max(packed, WholeLines(PackedFloats(rows, dk)));
  expanded = ExpandedFloats(c, rows);
}

std::int64_t AttentionScratch::worker() const {
  return block_pointers + tile_queries + 2 * tile_out + tile_state + kernel + packed + maps +
         expanded;
}

}  // namespace tandem
