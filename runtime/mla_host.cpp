#include "runtime/mla_host.h"

#include <algorithm>

#include "memory/error.h"
#include "placement/model_sizes.h"
#include "runtime/mla_task.h"

namespace tandem {
namespace {

bool TilesFit(const Config& c, const Plan& plan, const cpu::KernelTable& kernels) {
  return plan.bf16_many_rows && kernels.attention_bf16 != nullptr && c.kv_lora_rank % 16 == 0 &&
         c.v_head_dim % 16 == 0;
}

// Heads of a ticket of so many rows: enough tickets for every worker, but no lane of a kernel left
// empty.
std::int64_t HeadGroup(std::int64_t heads, std::int64_t tickets, std::int64_t rows, int workers) {
  const std::int64_t least = (cpu::kAttentionQueries + rows - 1) / rows;
  const std::int64_t most = std::max<std::int64_t>(1, kAbsorbedQueries / rows);
  const std::int64_t group = heads * tickets / (std::int64_t{2} * workers);
  return std::min(heads, std::clamp(group, std::min(least, most), most));
}

}  // namespace

cpu::KvLayout LayoutOfKv(const Config& c, DType type) {
  const cpu::KvLayout layout{type, c.kv_width(), c.kv_lora_rank};
  TANDEM_CHECK(static_cast<std::uint64_t>(cpu::KvRowBytes(layout)) == KvTokenBytes(c, type));
  return layout;
}

MlaOnHost::MlaOnHost(Forward& f, const HostActivation& q, const HostActivation& out)
    : f_(f),
      c_(f.config),
      q_(q),
      out_(out),
      sizes_(f.config, f.plan),
      attention_(TilesFit(f.config, f.plan, f.host.kernels) ? f.host.kernels.attention_bf16
                                                            : f.host.kernels.attention),
      may_expand_(f.plan.bf16_many_rows),
      absorbed_(f.host.Scratch("absorbed_q")),
      parts_(f.host.Scratch("attention_parts")),
      states_(f.host.Scratch("attention_states")) {
  tiles_.reserve(static_cast<std::size_t>(f.plan.max_rows));
  pieces_.reserve(static_cast<std::size_t>(sizes_.slots));
  TANDEM_CHECK(sizes_.kernel >= cpu::AttentionScratchFloats(c_.kv_width(), c_.kv_lora_rank));
  TANDEM_CHECK(sizes_.kernel >= cpu::AttentionScratchFloats(c_.qk_head_dim(), c_.v_head_dim));
  TANDEM_CHECK(sizes_.packed >= cpu::PackedQueryFloats(sizes_.queries, c_.kv_width()));
}

// The rows from t0 on that attend to one cache, each to no key less than the one before.
std::int64_t MlaOnHost::RunEnd(std::int64_t t0, std::int64_t limit) const {
  const Batch& b = f_.batch;
  std::int64_t t = t0 + 1;
  for (; t < limit && b.table_start[t] == b.table_start[t0]; ++t) {
    const std::int32_t more = b.n_keys[t] - b.n_keys[t - 1];
    if (more < 0 || more > 1) break;
  }
  return t;
}

// Those of a run whose keys are cut into ranges of one length.
std::int64_t MlaOnHost::SharedRangesEnd(std::int64_t t0, std::int64_t limit) const {
  const std::int64_t end = RunEnd(t0, limit);
  std::int64_t t = t0 + 1;
  while (t < end && RangeKeys(f_.batch.n_keys[t]) == RangeKeys(f_.batch.n_keys[t0])) ++t;
  return t;
}

void MlaOnHost::CutRows() {
  tiles_.clear();
  std::int64_t absorbed = 0;  // rows from here on wait for their tiles
  const auto flush = [&](std::int64_t end) {
    for (; absorbed < end; absorbed += kAbsorbedRows) {
      tiles_.push_back({absorbed, std::min(end, absorbed + kAbsorbedRows), false});
    }
    absorbed = end;
  };
  for (std::int64_t t = 0; t < f_.T();) {
    const std::int64_t end = RunEnd(t, f_.T());
    const std::int64_t rows = end - t;
    if (may_expand_ && rows >= LeastExpandedRows(c_)) {
      flush(t);
      const std::int64_t n = (rows + kExpandedRows - 1) / kExpandedRows;
      for (std::int64_t i = 0; i < n; ++i) {
        tiles_.push_back({t + rows * i / n, t + rows * (i + 1) / n, true});
      }
      absorbed = end;
    }
    t = end;
  }
  flush(f_.T());
  // The long tickets first, so that all workers finish together.
  std::ranges::sort(tiles_, [](const Tile& a, const Tile& b) {
    return a.expanded != b.expanded ? a.expanded : a.t0 < b.t0;
  });
}

bool MlaOnHost::CutRanges() {
  pieces_.clear();
  slots_ = 0;
  if (f_.T() > sizes_.shared_rows) return false;
  for (std::int64_t t = 0; t < f_.T();) {
    const std::int64_t end = SharedRangesEnd(t, f_.T());
    const std::int64_t range = RangeKeys(f_.batch.n_keys[t]);
    const std::int64_t n_keys = f_.batch.n_keys[end - 1];
    if (slots_ + (end - t) * ((n_keys + range - 1) / range) > sizes_.slots) return false;
    for (std::int64_t first = 0; first < n_keys; first += range) {
      pieces_.push_back({t, end, first, std::min(n_keys, first + range), slots_});
      slots_ += end - t;
    }
    t = end;
  }
  return true;
}

void MlaOnHost::Run(int layer) {
  f_.host.ResetTickets();
  if (CutRanges()) return RunPieces(layer);
  CutRows();
  RunTiles(layer);
}

void MlaOnHost::RunTiles(int layer) {
  const auto tiles = static_cast<std::int64_t>(tiles_.size());
  const std::int64_t long_tiles = std::ranges::count_if(tiles_, &Tile::expanded);
  const std::int64_t rows = std::min(kAbsorbedRows, f_.T());
  f_.host.pool.Run([&](const Worker& w) {
    MlaTask task(*this, layer, w);
    const std::int64_t n = task.heads();
    if (n == 0) return;
    const std::int64_t group = HeadGroup(n, tiles, rows, w.count_in_node);
    const std::int64_t groups = (n + group - 1) / group;
    const std::int64_t long_tickets = long_tiles * n;
    const std::int64_t tickets = long_tickets + (tiles - long_tiles) * groups;
    for (std::int64_t i = f_.host.tickets[w.node].Take(); i < tickets;
         i = f_.host.tickets[w.node].Take()) {
      if (i < long_tickets) {
        const Tile& tile = tiles_[i / n];
        task.Expanded(tile.t0, tile.t1, task.first_head() + i % n);
        continue;
      }
      const std::int64_t j = i - long_tickets;
      const Tile& tile = tiles_[long_tiles + j / groups];
      const std::int64_t head = j % groups * group;
      task.Absorbed(tile.t0, tile.t1, task.first_head() + head, std::min(group, n - head));
    }
  });
}

// Few rows: the ranges of their keys are shared out, each for all heads at once, so that a step
// reads the cache once.
void MlaOnHost::RunPieces(int layer) {
  const auto pieces = static_cast<std::int64_t>(pieces_.size());
  f_.host.pool.Run([&](const Worker& w) {
    MlaTask task(*this, layer, w);
    const std::int64_t first = task.first_head();
    const std::int64_t n = task.heads();
    for (std::int64_t i = w.index_in_node; i < n; i += w.count_in_node) task.AbsorbAll(first + i);
    f_.host.pool.Barrier();
    while (n > 0) {
      const std::int64_t i = f_.host.tickets[w.node].Take();
      if (i >= pieces) break;
      task.Attend(pieces_[i]);
    }
    f_.host.pool.Barrier();
    for (std::int64_t i = w.index_in_node; i < n; i += w.count_in_node) task.MergeAll(first + i);
  });
}

}  // namespace tandem
