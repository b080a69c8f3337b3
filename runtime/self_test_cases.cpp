#include "runtime/self_test_cases.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <limits>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/gemm.h"
#include "cpu_kernels/panel.h"
#include "memory/blocks.h"
#include "memory/split_layout.h"
#include "model/quantize.h"

namespace tandem {
namespace {

constexpr std::int64_t kRows = 160;  // of a matrix: more than one block of FP8 scales
constexpr std::int64_t kCols = 512;  // two blocks of the longest format
constexpr std::int64_t kManyRows = 40;

// One value in a scalar format, and what it then stands for.
double EncodeScalar(DType format, float x, std::byte* to) {
  if (format == DType::kF32) {
    std::memcpy(to, &x, sizeof(x));
    return x;
  }
  if (format == DType::kF8E4M3) {
    const std::uint8_t code = F32ToE4M3(x);
    std::memcpy(to, &code, sizeof(code));
    return E4M3ToF32(code);
  }
  const bool bf16 = format == DType::kBF16;
  const std::uint16_t half = bf16 ? F32ToBf16(x) : F32ToF16(x);
  std::memcpy(to, &half, sizeof(half));
  return bf16 ? Bf16ToF32(half) : F16ToF32(half);
}

// Bytes of a matrix as a file has them.
std::vector<std::byte> Encode(DType format, const Floats& x, std::int64_t rows, std::int64_t cols,
                              Doubles& values) {
  std::vector<std::byte> bytes(DataBytes(format, rows * cols));
  if (IsBlockFormat(format)) {
    QuantizeRows(format, x.data(), rows, cols, nullptr, bytes.data());
    Floats decoded(x.size());
    DecodeBlocks(format, bytes.data(), decoded);
    values.assign(decoded.begin(), decoded.end());
    return bytes;
  }
  const std::size_t step = BytesOf(format);
  for (std::size_t i = 0; i < x.size(); ++i) {
    values.push_back(EncodeScalar(format, x[i], &bytes[i * step]));
  }
  return bytes;
}

constexpr std::uint64_t SideAt(std::uint64_t data_bytes) { return (data_bytes + 255) / 256 * 256; }

// Codes and side arrays in one buffer, as memory/split_layout.h has them.
std::vector<std::byte> Split(DType format, const std::vector<std::byte>& blocks, std::int64_t rows,
                             std::int64_t cols) {
  const std::uint64_t side_at = SideAt(SplitDataBytes(format, rows, cols));
  std::vector<std::byte> split(side_at + SplitSideBytes(format, rows, cols));
  std::array<std::byte*, 3> side{};
  for (int i = 0; i < 3; ++i) {
    side[Size(i)] = split.data() + side_at + SplitSideOffset(format, rows, cols, i);
  }
  SplitBlocks(format, blocks.data(), rows, cols, split.data(), side);
  return split;
}

void ScaleBlocks(const Floats& scales, std::int64_t cols, Doubles& values) {
  const std::int64_t scale_cols = (cols + kFp8Block - 1) / kFp8Block;
  for (std::int64_t i = 0; i < std::ssize(values); ++i) {
    values[Size(i)] *= scales[Size(i / cols / kFp8Block * scale_cols + i % cols / kFp8Block)];
  }
}

}  // namespace

Floats SelfTestCases::Random(std::int64_t n, float size) {
  Floats values(Size(n));
  for (float& v : values) v = size * (static_cast<float>(random_() >> 8) / (1 << 23) - 1.0F);
  return values;
}

ClBuffer SelfTestCases::Results(std::int64_t n) const {
  return Upload(Floats(Size(n), std::numeric_limits<float>::quiet_NaN()));
}

void SelfTestCases::Add(std::string family, std::string shape, DType format, double bound,
                        const Doubles& want, const Floats& got) {
  rows_.push_back({std::move(family), std::move(shape), std::string(Name(format)),
                   NormalizedError(want, got), bound});
}

TestMatrix SelfTestCases::MakeMatrix(DType format, std::int64_t rows, std::int64_t cols) {
  TestMatrix m;
  std::vector<std::byte> bytes = Encode(format, Random(rows * cols), rows, cols, m.values);
  const std::uint64_t side_at = SideAt(SplitDataBytes(format, rows, cols));
  if (IsBlockFormat(format)) {
    bytes = Split(format, bytes, rows, cols);
  } else if (format == DType::kF8E4M3) {
    const Floats scales =
        Random((rows + kFp8Block - 1) / kFp8Block * ((cols + kFp8Block - 1) / kFp8Block));
    bytes.resize(side_at + scales.size() * sizeof(float));
    std::memcpy(bytes.data() + side_at, scales.data(), scales.size() * sizeof(float));
    ScaleBlocks(scales, cols, m.values);
  }
  m.buffer = Upload(bytes);
  m.weight = {m.buffer.get(), 0, side_at, format, rows, cols};
  return m;
}

void SelfTestCases::Product(const TestMatrix& m, std::int64_t T, bool bf16, bool fp8) {
  const std::int64_t N = m.weight.rows;
  const std::int64_t K = m.weight.cols;
  const Floats x = Random(T * K);
  const ClBuffer dx = Upload(x);
  const ClBuffer y = Results(T * N);
  const ClBuffer work = Results(cl::GemmWorkFloats(T, K));
  cl::LinearArgs a{{dx.get(), 0}, K, m.weight, {y.get(), 0}, N, T, false};
  a.bf16 = bf16;
  a.fp8 = fp8;
  if (bf16) a.work = {work.get(), 0};
  kernels_.Linear(a);
  Doubles want(Size(T * N));
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < K; ++k) {
        sum += static_cast<double>(x[Size(t * K + k)]) * m.values[Size(n * K + k)];
      }
      want[Size(t * N + n)] = sum;
    }
  }
  Add("products",
      fmt::format("{} rows by {} x {}{}", T, N, K,
                  fp8    ? ", FP8"
                  : bf16 ? ", bf16"
                         : ""),
      m.weight.dtype,
      fp8    ? kF8Bound
      : bf16 ? kBf16Bound
             : kFloatBound,
      want, Download(y, T * N));
}

void SelfTestCases::Products(DType format, bool bf16) {
  const TestMatrix matrix = MakeMatrix(format, kRows, kCols);
  for (const std::int64_t T : {std::int64_t{1}, std::int64_t{5}, kManyRows}) {
    Product(matrix, T, false);
  }
  if (!bf16) return;
  for (const std::int64_t T : {std::int64_t{5}, kManyRows}) Product(matrix, T, true);
  if (format != DType::kBF16 || kernels_.traits().nv_compute < 80) return;
  // Enough tiles for the form that fills a device.
  Product(MakeMatrix(format, 128 * std::int64_t{device().info().compute_units}, 64), kManyRows,
          true);
}

void SelfTestCases::ProductsInF8() {
  Product(MakeMatrix(DType::kF8E4M3, kRows, kCols), kManyRows, true, true);
  if (kernels_.traits().nv_compute != 90) return;
  // Enough tiles for the form that fills a device.
  Product(MakeMatrix(DType::kF8E4M3, 128 * std::int64_t{device().info().compute_units}, 144),
          kManyRows, true, true);
}

// What comes in the CPU's panels: as bf16, which rounds, and into the device's layout, which keeps
// every bit.
void SelfTestCases::Panels(DType format) {
  constexpr std::int64_t kPanelsRows = 32;
  Doubles values;
  const std::vector<std::byte> blocks =
      Encode(format, Random(kPanelsRows * kCols), kPanelsRows, kCols, values);
  std::vector<std::byte> panels(PackedBytes(format, kPanelsRows, kCols));
  cpu::PackPanels(format, blocks.data(), kPanelsRows, kCols, panels.data());
  const ClBuffer in = Upload(panels);
  const ClBuffer bf16 = Results(kPanelsRows * kCols / 2);
  kernels_.Panels({in.get(), 0, format, kPanelsRows, kCols, {bf16.get(), 0}});
  Floats got;
  for (const std::uint16_t half : Download<std::uint16_t>(bf16, kPanelsRows * kCols)) {
    got.push_back(Bf16ToF32(half));
  }
  Add("panels", "to bf16", format, kBf16Bound, values, got);
  const std::vector<std::byte> split = Split(format, blocks, kPanelsRows, kCols);
  const std::uint64_t side_at = SideAt(SplitDataBytes(format, kPanelsRows, kCols));
  const ClBuffer out = Upload(std::vector<std::byte>(split.size()));
  kernels_.PanelSplit({in.get(), 0, format, kPanelsRows, kCols, out.get(), 0, side_at});
  Doubles want_bytes;
  Floats got_bytes;
  for (const std::byte b : split) want_bytes.push_back(std::to_integer<int>(b));
  for (const std::byte b : Download<std::byte>(out, std::ssize(split))) {
    got_bytes.push_back(static_cast<float>(std::to_integer<int>(b)));
  }
  Add("panels", "to codes and scales", format, 0, want_bytes, got_bytes);
}

}  // namespace tandem
