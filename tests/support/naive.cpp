#include "tests/support/naive.h"

#include <cmath>
#include <cstring>

namespace tandem::test {
namespace {

template <class T>
T Read(const Matrix& m, std::int64_t index) {
  T value;
  std::memcpy(&value, m.bytes.data() + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void Write(Matrix& m, std::int64_t index, T value) {
  std::memcpy(m.bytes.data() + index * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
}

}  // namespace

double Matrix::At(std::int64_t row, std::int64_t col) const {
  const std::int64_t index = row * cols + col;
  switch (type) {
    case DType::kBF16:
      return Bf16ToF32(Read<std::uint16_t>(*this, index));
    case DType::kF16:
      return F16ToF32(Read<std::uint16_t>(*this, index));
    case DType::kF8E4M3: {
      const std::int64_t block = (row + scale_row0) / 128 * scale_stride + col / 128;
      return static_cast<double>(E4M3ToF32(Read<std::uint8_t>(*this, index))) *
             static_cast<double>(scales[static_cast<std::size_t>(block)]);
    }
    default:
      return Read<float>(*this, index);
  }
}

void Matrix::Set(std::int64_t row, std::int64_t col, float value) {
  const std::int64_t index = row * cols + col;
  switch (type) {
    case DType::kBF16:
      return Write(*this, index, F32ToBf16(value));
    case DType::kF16:
      return Write(*this, index, F32ToF16(value));
    case DType::kF8E4M3:
      return Write(*this, index, F32ToE4M3(value));
    default:
      return Write(*this, index, value);
  }
}

Matrix MakeMatrix(DType type, std::int64_t rows, std::int64_t cols, std::int64_t scale_row0) {
  Matrix m;
  m.type = type;
  m.rows = rows;
  m.cols = cols;
  m.bytes.resize(static_cast<std::size_t>(rows * cols) * BytesOf(type));
  if (type == DType::kF8E4M3) {
    m.scale_row0 = scale_row0;
    m.scale_stride = (cols + 127) / 128;
    m.scales.assign(static_cast<std::size_t>((rows + scale_row0 + 127) / 128 * m.scale_stride), 1);
  }
  return m;
}

Matrix RandomMatrix(Random& random, DType type, std::int64_t rows, std::int64_t cols,
                    std::int64_t scale_row0) {
  Matrix m = MakeMatrix(type, rows, cols, scale_row0);
  const float limit = type == DType::kF8E4M3 ? 448.0F : 1.0F;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < cols; ++j) m.Set(i, j, random.Uniform(-limit, limit));
  }
  for (float& scale : m.scales) scale = random.Uniform(0.001F, 0.004F);
  return m;
}

DotResult Dot(const Matrix& a, std::int64_t a_row, const Matrix& b, std::int64_t b_row) {
  DotResult result;
  for (std::int64_t k = 0; k < a.cols; ++k) {
    const double term = a.At(a_row, k) * b.At(b_row, k);
    result.sum += term;
    result.magnitude += std::fabs(term);
  }
  return result;
}

}  // namespace tandem::test
