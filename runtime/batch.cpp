#include "runtime/batch.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"

namespace tandem {
namespace {

// Takes pieces of the batch's memory, one after another.
class Packer {
 public:
  explicit Packer(Batch& batch) : batch_(batch) { batch_.words = 0; }

  template <class T>
  std::span<T> Take(std::size_t n) {
    static_assert(sizeof(T) == sizeof(float));
    const auto at = static_cast<std::size_t>(batch_.words);
    TANDEM_CHECK(at + n <= batch_.memory.size());
    batch_.words += static_cast<std::int64_t>(n);
    return {reinterpret_cast<T*>(batch_.memory.data() + at), n};
  }

 private:
  Batch& batch_;
};

void FillAngles(Batch& batch, std::span<const double> inv_freq, double factor) {
  float* out = batch.cos_sin.data();
  for (const Row& row : batch.rows) {
    for (const double f : inv_freq) {
      const double angle = row.position * f;
      *out++ = static_cast<float>(std::cos(angle) * factor);
      *out++ = static_cast<float>(std::sin(angle) * factor);
    }
  }
}

// Where the table of row i's sequence starts, or -1 if no earlier row is of that sequence. Rows of
// one sequence mostly follow each other.
std::int32_t KnownTable(const Batch& batch, std::span<const std::int32_t> starts, std::size_t i) {
  for (std::size_t j = i; j-- > 0;) {
    if (batch.rows[j].sequence == batch.rows[i].sequence) return starts[j];
  }
  return -1;
}

// The blocks of a part among the first n of a table, or their numbers in it to `out`.
std::int64_t BlocksIn(std::span<const std::int32_t> table, std::int64_t n, std::int64_t first,
                      std::int64_t count, std::int32_t* out) {
  std::int64_t found = 0;
  for (const std::int32_t block : table.first(static_cast<std::size_t>(n))) {
    if (block < first || block >= first + count) continue;
    if (out != nullptr) out[found] = static_cast<std::int32_t>(block - first);
    ++found;
  }
  return found;
}

// The step in the buffer whose blocks are `first` and on. Only the last block of a row's keys may
// be in part theirs.
void FillPart(const Batch& batch, const KvBlocks& blocks, std::int64_t first, KvPart& part,
              Packer& packer) {
  const std::int64_t count = batch.kv_part_blocks;
  part.slots = packer.Take<std::int32_t>(batch.rows.size());
  part.n_keys = packer.Take<std::int32_t>(batch.rows.size());
  part.table_start = packer.Take<std::int32_t>(batch.rows.size());
  part.tables = packer.Take<std::int32_t>(0);
  for (std::size_t i = 0; i < batch.rows.size(); ++i) {
    const auto table = blocks.Table(batch.rows[i].sequence);
    const std::int32_t known = KnownTable(batch, part.table_start, i);
    part.table_start[i] = known >= 0 ? known : static_cast<std::int32_t>(part.tables.size());
    if (known < 0) {
      const std::int64_t all = std::ssize(table);
      const std::int64_t n = BlocksIn(table, all, first, count, nullptr);
      const auto piece = packer.Take<std::int32_t>(static_cast<std::size_t>(n));
      BlocksIn(table, all, first, count, piece.data());
      part.tables = {part.tables.data(), part.tables.size() + piece.size()};
    }
    const std::int64_t last = batch.rows[i].position / kKvBlock;
    const std::int64_t n = BlocksIn(table, last + 1, first, count, nullptr);
    const std::int64_t slot = batch.slots[i] - first * kKvBlock;
    const bool here = slot >= 0 && slot < count * kKvBlock;
    part.slots[i] = static_cast<std::int32_t>(here ? slot : -1);
    part.n_keys[i] =
        static_cast<std::int32_t>(here ? (n - 1) * kKvBlock + slot % kKvBlock + 1 : n * kKvBlock);
  }
}

}  // namespace

void FillBatch(Batch& batch, std::span<const Row> rows, const KvBlocks& blocks,
               std::span<const double> inv_freq, double factor) {
  batch.rows = rows;
  batch.T = static_cast<std::int64_t>(rows.size());
  Packer packer(batch);
  batch.cos_sin = packer.Take<float>(rows.size() * inv_freq.size() * 2);
  batch.slots = packer.Take<std::int32_t>(rows.size());
  batch.n_keys = packer.Take<std::int32_t>(rows.size());
  batch.table_start = packer.Take<std::int32_t>(rows.size());
  batch.tables = packer.Take<std::int32_t>(0);
  FillAngles(batch, inv_freq, factor);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const auto table = blocks.Table(row.sequence);
    batch.table_start[i] = KnownTable(batch, batch.table_start, i);
    if (batch.table_start[i] < 0) {
      batch.table_start[i] = static_cast<std::int32_t>(batch.tables.size());
      const auto piece = packer.Take<std::int32_t>(table.size());
      std::ranges::copy(table, piece.begin());
      batch.tables = {batch.tables.data(), batch.tables.size() + table.size()};
    }
    batch.n_keys[i] = row.position + 1;
    batch.slots[i] = static_cast<std::int32_t>(table[row.position / kKvBlock] * kKvBlock +
                                               row.position % kKvBlock);
  }
  if (batch.kv_parts.size() == 1) {
    batch.kv_parts[0] = {batch.slots, batch.n_keys, batch.table_start, batch.tables, {}, {}, {},
                         {}};
    return;
  }
  std::int64_t first = 0;
  for (KvPart& part : batch.kv_parts) {
    FillPart(batch, blocks, first, part, packer);
    first += batch.kv_part_blocks;
  }
}

}  // namespace tandem
