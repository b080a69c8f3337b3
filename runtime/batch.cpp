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
std::int32_t KnownTable(const Batch& batch, std::size_t i) {
  for (std::size_t j = i; j-- > 0;) {
    if (batch.rows[j].sequence == batch.rows[i].sequence) return batch.table_start[j];
  }
  return -1;
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
    batch.table_start[i] = KnownTable(batch, i);
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
}

}  // namespace tandem
