#include "model/quantized_model_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory/error.h"
#include "model/quantized_model_rows.h"

namespace tandem {
namespace {

// Values decoded at a time: 1 MiB of f32, which the second-level cache about holds.
constexpr std::int64_t kChunkValues = std::int64_t{1} << 18;

// Calls fn(head, first, count) for the rows [row0, row0 + rows) of a matrix whose heads have
// `per_head` rows each, head by head.
template <class Fn>
void ForHeads(std::int64_t row0, std::int64_t rows, std::int64_t per_head, Fn fn) {
  for (std::int64_t row = row0; row < row0 + rows;) {
    const std::int64_t first = row % per_head;
    const std::int64_t count = std::min(per_head - first, row0 + rows - row);
    fn(row / per_head, first, count);
    row += count;
  }
}

}  // namespace

QuantizedSource::QuantizedSource(const Model& inner, TensorList list, std::vector<From> from)
    : config_(inner.config),
      inner_(inner.source),
      inner_list_(inner.tensors),
      list_(std::move(list)),
      from_(std::move(from)) {
  TANDEM_CHECK(from_.size() == list_.all().size());
}

void QuantizedSource::Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
                           std::span<std::byte> dst) const {
  if (tensor.role == Role::kMtp) return inner_->Read(tensor, piece, offset, dst);
  const TensorInfo& ours = list_.Get(tensor.role, tensor.part, tensor.layer, tensor.expert);
  const From& from = from_[static_cast<std::size_t>(&ours - list_.all().data())];
  if (from.map == RowMap::kUntouched) {
    return inner_->Read(inner_list_.all()[from.tensor], piece, offset, dst);
  }
  TANDEM_CHECK(piece == Piece::kData);
  TANDEM_CHECK(offset <= ours.data.bytes && dst.size() <= ours.data.bytes - offset);
  if (dst.empty()) return;
  const std::uint64_t row_bytes = DataBytes(ours.dtype, MatrixCols(ours));
  const std::uint64_t row0 = offset / row_bytes;
  const std::uint64_t row1 = (offset + dst.size() + row_bytes - 1) / row_bytes;
  const auto first = static_cast<std::int64_t>(row0);
  const auto count = static_cast<std::int64_t>(row1 - row0);
  if (offset == row0 * row_bytes && dst.size() == (row1 - row0) * row_bytes) {
    return Quantize(ours, from, first, count, dst.data());
  }
  std::vector<std::byte> whole((row1 - row0) * row_bytes);
  Quantize(ours, from, first, count, whole.data());
  std::memcpy(dst.data(), whole.data() + (offset - row0 * row_bytes), dst.size());
}

void QuantizedSource::Quantize(const TensorInfo& tensor, const From& from, std::int64_t row0,
                               std::int64_t rows, std::byte* out) const {
  const std::int64_t cols = MatrixCols(tensor);
  const std::uint64_t row_bytes = DataBytes(tensor.dtype, cols);
  const std::int64_t chunk = std::clamp<std::int64_t>(kChunkValues / cols, 1, rows);
  std::vector<float> values(static_cast<std::size_t>(chunk * cols));
  for (std::int64_t done = 0; done < rows; done += chunk) {
    const std::int64_t count = std::min(chunk, rows - done);
    FillRows(tensor, from, row0 + done, count, values.data());
    WriteRows(tensor.dtype, values.data(), count, cols, nullptr,
              out + static_cast<std::uint64_t>(done) * row_bytes);
  }
}

void QuantizedSource::FillRows(const TensorInfo& tensor, const From& from, std::int64_t row0,
                               std::int64_t rows, float* out) const {
  const TensorInfo& inner = inner_list_.all()[from.tensor];
  switch (from.map) {
    case RowMap::kInterleave:
      return FillInterleaved(inner, row0, rows, out);
    case RowMap::kKeysTransposed:
      return FillKeys(inner, row0, rows, out);
    case RowMap::kValues:
      return FillValues(inner, row0, rows, out);
    default:
      TANDEM_CHECK(MatrixCols(inner) == MatrixCols(tensor));
      return ReadRows(*inner_, inner, row0, rows, out);
  }
}

// Row 2 i + j of a head is row j d/2 + i of the source's.
void QuantizedSource::FillInterleaved(const TensorInfo& from, std::int64_t row0, std::int64_t rows,
                                      float* out) const {
  const std::int64_t d = config_.qk_head_dim();
  const std::int64_t cols = from.cols();
  std::vector<float> head_rows(static_cast<std::size_t>(d * cols));
  ForHeads(row0, rows, d, [&](std::int64_t head, std::int64_t first, std::int64_t count) {
    ReadRows(*inner_, from, head * d, d, head_rows.data());
    for (std::int64_t r = first; r < first + count; ++r, out += cols) {
      std::copy_n(head_rows.data() + (r % 2 * (d / 2) + r / 2) * cols, cols, out);
    }
  });
}

void QuantizedSource::FillKeys(const TensorInfo& from, std::int64_t row0, std::int64_t rows,
                               float* out) const {
  const std::int64_t nope = config_.qk_nope_head_dim;
  const std::int64_t rank = config_.kv_lora_rank;
  const std::int64_t per_head = nope + config_.v_head_dim;
  std::vector<float> keys(static_cast<std::size_t>(nope * rank));
  ForHeads(row0, rows, rank, [&](std::int64_t head, std::int64_t first, std::int64_t count) {
    ReadRows(*inner_, from, head * per_head, nope, keys.data());
    for (std::int64_t r = first; r < first + count; ++r, out += nope) {
      for (std::int64_t n = 0; n < nope; ++n) out[n] = keys[static_cast<std::size_t>(n * rank + r)];
    }
  });
}

void QuantizedSource::FillValues(const TensorInfo& from, std::int64_t row0, std::int64_t rows,
                                 float* out) const {
  const std::int64_t nope = config_.qk_nope_head_dim;
  const std::int64_t v = config_.v_head_dim;
  ForHeads(row0, rows, v, [&](std::int64_t head, std::int64_t first, std::int64_t count) {
    ReadRows(*inner_, from, head * (nope + v) + nope + first, count, out);
    out += count * config_.kv_lora_rank;
  });
}

}  // namespace tandem
