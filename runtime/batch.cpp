#include "runtime/batch.h"

#include <cmath>
#include <unordered_map>

namespace tandem {

void FillBatch(Batch& batch, std::span<const Row> rows, const KvBlocks& blocks,
               std::span<const double> inv_freq, double factor) {
  batch.rows = rows;
  batch.T = static_cast<std::int64_t>(rows.size());
  batch.cos_sin.clear();
  batch.slots.clear();
  batch.n_keys.clear();
  batch.table_start.clear();
  batch.tables.clear();
  std::unordered_map<std::int32_t, std::int32_t> start_of;
  for (const Row& row : rows) {
    const auto table = blocks.Table(row.sequence);
    const auto [it, fresh] =
        start_of.try_emplace(row.sequence, static_cast<std::int32_t>(batch.tables.size()));
    if (fresh) batch.tables.insert(batch.tables.end(), table.begin(), table.end());
    batch.table_start.push_back(it->second);
    batch.n_keys.push_back(row.position + 1);
    batch.slots.push_back(static_cast<std::int32_t>(table[row.position / kKvBlock] * kKvBlock +
                                                    row.position % kKvBlock));
    for (double f : inv_freq) {
      const double angle = row.position * f;
      batch.cos_sin.push_back(static_cast<float>(std::cos(angle) * factor));
      batch.cos_sin.push_back(static_cast<float>(std::sin(angle) * factor));
    }
  }
}

}  // namespace tandem
