#include "model/quantized_model_rows.h"

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "memory/blocks.h"
#include "memory/error.h"
#include "model/quantize.h"

namespace tandem {
namespace {

template <class T>
void ReadValues(const TensorSource& source, const TensorInfo& tensor, Piece piece,
                std::int64_t first, std::int64_t count, std::vector<T>& values) {
  values.resize(static_cast<std::size_t>(count));
  source.Read(tensor, piece, static_cast<std::uint64_t>(first) * sizeof(T),
              std::as_writable_bytes(std::span(values)));
}

std::array<float, 256> E4M3Table() {
  std::array<float, 256> table{};
  for (unsigned i = 0; i < 256; ++i) table[i] = E4M3ToF32(static_cast<std::uint8_t>(i));
  return table;
}

// One row of FP8 codes times the scales of its row of blocks.
void DecodeFp8Row(const std::uint8_t* codes, const float* scales, std::int64_t cols, float* out) {
  static const std::array<float, 256> table = E4M3Table();
  for (std::int64_t c = 0; c < cols; ++c) out[c] = table[codes[c]] * scales[c / kFp8Block];
}

void ReadFp8Rows(const TensorSource& source, const TensorInfo& tensor, std::int64_t row0,
                 std::int64_t rows, float* out) {
  const std::int64_t cols = tensor.cols();
  std::vector<std::uint8_t> codes;
  ReadValues(source, tensor, Piece::kData, row0 * cols, rows * cols, codes);
  const std::int64_t block0 = row0 / kFp8Block;
  const std::int64_t blocks = (row0 + rows - 1) / kFp8Block - block0 + 1;
  std::vector<float> scales;
  ReadValues(source, tensor, Piece::kScale, block0 * tensor.scale_cols(),
             blocks * tensor.scale_cols(), scales);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t block = (row0 + r) / kFp8Block - block0;
    DecodeFp8Row(codes.data() + r * cols, scales.data() + block * tensor.scale_cols(), cols,
                 out + r * cols);
  }
}

void ReadBf16(const TensorSource& source, const TensorInfo& tensor, std::int64_t first,
              std::int64_t count, float* out) {
  std::vector<std::uint16_t> bits;
  ReadValues(source, tensor, Piece::kData, first, count, bits);
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] =
        std::bit_cast<float>(static_cast<std::uint32_t>(bits[static_cast<std::size_t>(i)]) << 16);
  }
}

void ReadF16(const TensorSource& source, const TensorInfo& tensor, std::int64_t first,
             std::int64_t count, float* out) {
  std::vector<std::uint16_t> bits;
  ReadValues(source, tensor, Piece::kData, first, count, bits);
  for (std::int64_t i = 0; i < count; ++i) out[i] = F16ToF32(bits[static_cast<std::size_t>(i)]);
}

void ReadBlocks(const TensorSource& source, const TensorInfo& tensor, std::int64_t first,
                std::int64_t count, float* out) {
  std::vector<std::byte> blocks(DataBytes(tensor.dtype, count));
  source.Read(tensor, Piece::kData, DataBytes(tensor.dtype, first), blocks);
  DecodeBlocks(tensor.dtype, blocks.data(), {out, static_cast<std::size_t>(count)});
}

void ReadF32(const TensorSource& source, const TensorInfo& tensor, std::int64_t first,
             std::int64_t count, float* out) {
  const std::span values(out, static_cast<std::size_t>(count));
  source.Read(tensor, Piece::kData, static_cast<std::uint64_t>(first) * sizeof(float),
              std::as_writable_bytes(values));
}

template <class Convert>
void WriteHalves(const float* x, std::int64_t count, std::byte* out, Convert convert) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = convert(x[i]);
    std::memcpy(out + static_cast<std::size_t>(i) * sizeof(bits), &bits, sizeof(bits));
  }
}

}  // namespace

std::int64_t MatrixRows(const TensorInfo& tensor) {
  return tensor.shape.size() < 2 ? 1 : tensor.rows();
}

std::int64_t MatrixCols(const TensorInfo& tensor) {
  return tensor.shape.size() < 2 ? tensor.elements() : tensor.cols();
}

void ReadRows(const TensorSource& source, const TensorInfo& tensor, std::int64_t row0,
              std::int64_t rows, float* out) {
  const std::int64_t cols = MatrixCols(tensor);
  switch (tensor.dtype) {
    case DType::kF32:
      return ReadF32(source, tensor, row0 * cols, rows * cols, out);
    case DType::kBF16:
      return ReadBf16(source, tensor, row0 * cols, rows * cols, out);
    case DType::kF16:
      return ReadF16(source, tensor, row0 * cols, rows * cols, out);
    case DType::kF8E4M3:
      return ReadFp8Rows(source, tensor, row0, rows, out);
    default:
      TANDEM_CHECK(IsBlockFormat(tensor.dtype));
      return ReadBlocks(source, tensor, row0 * cols, rows * cols, out);
  }
}

void WriteRows(DType format, const float* x, std::int64_t rows, std::int64_t cols,
               const float* importance, std::byte* out) {
  const std::int64_t count = rows * cols;
  switch (format) {
    case DType::kF32:
      std::memcpy(out, x, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      return WriteHalves(x, count, out, F32ToBf16);
    case DType::kF16:
      return WriteHalves(x, count, out, F32ToF16);
    default:
      TANDEM_CHECK(IsBlockFormat(format));
      return QuantizeRows(format, x, rows, cols, importance, out);
  }
}

}  // namespace tandem
