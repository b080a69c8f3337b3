#include "runtime/self_test.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "cl_kernels/gemm.h"
#include "memory/blocks.h"
#include "memory/error.h"
#include "memory/split_layout.h"
#include "model/quantize.h"

namespace tandem {
namespace {

// Sums of some hundred f32 values are exact to 1e-7 each, 1e-13 squared; a product that rounds its
// inputs to bf16 errs by 2^-9 in each, 3e-6 squared. A wrong value of 1000 gives 1e-3.
constexpr double kFloatLimit = 1e-10;
constexpr double kBf16Limit = 3e-5;

constexpr std::int64_t kRows = 160;  // of a matrix: more than one block of FP8 scales
constexpr std::int64_t kCols = 512;  // two blocks of the longest format
constexpr std::array<std::int64_t, 3> kTokens{1, 5, 40};  // few rows, and tiles

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

// A matrix as the device has it, and what its values are.
struct TestMatrix {
  ClBuffer buffer;
  cl::Weight weight;
  Doubles values;
};

class Tests {
 public:
  Tests(cl::Kernels& kernels, unsigned seed) : kernels_(kernels), random_(seed) {}

  void Products(DType format);
  void RowWise();
  std::vector<SelfTestRow> TakeRows() { return std::move(rows_); }

 private:
  const ClDevice& device() const { return kernels_.device(); }
  Floats Random(std::int64_t n) {
    Floats values(Size(n));
    for (float& v : values) v = static_cast<float>(random_() >> 8) / (1 << 23) - 1.0F;
    return values;
  }
  template <class T>
  ClBuffer Upload(const std::vector<T>& values) const {
    ClBuffer buffer = device().Allocate(values.size() * sizeof(T));
    device().BlockingWrite(buffer.get(), 0, values.data(), buffer.bytes());
    return buffer;
  }
  Floats Download(const ClBuffer& buffer, std::int64_t n) const {
    Floats values(Size(n));
    device().BlockingRead(buffer.get(), 0, values.data(), values.size() * sizeof(float));
    return values;
  }
  TestMatrix MakeMatrix(DType format);
  void Product(const TestMatrix& matrix, std::int64_t T, bool bf16);
  void Add(std::string kernel, std::string shape, DType format, double limit, const Doubles& want,
           const Floats& got) {
    rows_.push_back({std::move(kernel), std::move(shape), std::string(Name(format)),
                     NormalizedError(want, got), limit});
  }
  void RmsNorm();
  void Swiglu();
  void Sum();
  void Largest();

  cl::Kernels& kernels_;
  std::mt19937 random_;
  std::vector<SelfTestRow> rows_;
};

// Bytes of the values in a format, and the values that they then stand for.
std::vector<std::byte> Encode(DType format, const Floats& x, Doubles& values) {
  std::vector<std::byte> bytes(DataBytes(format, std::ssize(x)));
  if (IsBlockFormat(format)) {
    QuantizeRows(format, x.data(), kRows, kCols, nullptr, bytes.data());
    Floats decoded(x.size());
    DecodeBlocks(format, bytes.data(), decoded);
    values.assign(decoded.begin(), decoded.end());
    return bytes;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (format == DType::kF32) {
      std::memcpy(&bytes[4 * i], &x[i], 4);
      values.push_back(x[i]);
    } else if (format == DType::kF8E4M3) {
      const std::uint8_t code = F32ToE4M3(x[i]);
      std::memcpy(&bytes[i], &code, 1);
      values.push_back(E4M3ToF32(code));
    } else {
      const bool bf16 = format == DType::kBF16;
      const std::uint16_t half = bf16 ? F32ToBf16(x[i]) : F32ToF16(x[i]);
      std::memcpy(&bytes[2 * i], &half, 2);
      values.push_back(bf16 ? Bf16ToF32(half) : F16ToF32(half));
    }
  }
  return bytes;
}

// Codes and side arrays in one buffer, as memory/split_layout.h has them.
std::vector<std::byte> Split(DType format, const std::vector<std::byte>& blocks,
                             std::uint64_t side_at) {
  std::vector<std::byte> split(side_at + SplitSideBytes(format, kRows, kCols));
  std::array<std::byte*, 3> side{};
  for (int i = 0; i < 3; ++i) {
    side[Size(i)] = split.data() + side_at + SplitSideOffset(format, kRows, kCols, i);
  }
  SplitBlocks(format, blocks.data(), kRows, kCols, split.data(), side);
  return split;
}

TestMatrix Tests::MakeMatrix(DType format) {
  TestMatrix m;
  std::vector<std::byte> bytes = Encode(format, Random(kRows * kCols), m.values);
  const std::uint64_t side_at = (SplitDataBytes(format, kRows, kCols) + 255) / 256 * 256;
  if (IsBlockFormat(format)) {
    bytes = Split(format, bytes, side_at);
  } else if (format == DType::kF8E4M3) {
    constexpr std::int64_t kScaleCols = kCols / kFp8Block;
    constexpr std::int64_t kScaleRows = (kRows + kFp8Block - 1) / kFp8Block;
    const Floats scales = Random(kScaleRows * kScaleCols);
    bytes.resize(side_at + scales.size() * sizeof(float));
    std::memcpy(bytes.data() + side_at, scales.data(), scales.size() * sizeof(float));
    for (std::int64_t i = 0; i < kRows * kCols; ++i) {
      m.values[Size(i)] *=
          scales[Size(i / kCols / kFp8Block * kScaleCols + i % kCols / kFp8Block)];
    }
  }
  m.buffer = Upload(bytes);
  m.weight = {m.buffer.get(), 0, side_at, format, kRows, kCols};
  return m;
}

void Tests::Product(const TestMatrix& m, std::int64_t T, bool bf16) {
  const Floats x = Random(T * kCols);
  const ClBuffer dx = Upload(x);
  const ClBuffer y = device().Allocate(Size(T * kRows) * sizeof(float));
  const ClBuffer work = device().Allocate(Size(cl::GemmWorkFloats(T, kCols)) * sizeof(float));
  cl::LinearArgs a{{dx.get(), 0}, kCols, m.weight, {y.get(), 0}, kRows, T, false};
  a.bf16 = bf16;
  if (bf16) a.work = {work.get(), 0};
  kernels_.Linear(a);
  Doubles want(Size(T * kRows));
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t n = 0; n < kRows; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < kCols; ++k) {
        sum += static_cast<double>(x[Size(t * kCols + k)]) * m.values[Size(n * kCols + k)];
      }
      want[Size(t * kRows + n)] = sum;
    }
  }
  Add("linear", fmt::format("{} rows{}", T, bf16 ? ", bf16" : ""), m.weight.dtype,
      bf16 ? kBf16Limit : kFloatLimit, want, Download(y, T * kRows));
}

void Tests::Products(DType format) {
  const TestMatrix matrix = MakeMatrix(format);
  for (const std::int64_t T : kTokens) Product(matrix, T, false);
  Product(matrix, kTokens.back(), true);
}

void Tests::RmsNorm() {
  constexpr std::int64_t T = 5;
  constexpr float kEps = 1e-6F;
  const Floats x = Random(T * kCols), w = Random(kCols);
  const ClBuffer dx = Upload(x), dw = Upload(w), y = Upload(x);
  kernels_.RmsNorm({{dx.get(), 0}, kCols, {dw.get(), 0}, {y.get(), 0}, kCols, T, kCols, kEps});
  Doubles want;
  for (std::int64_t t = 0; t < T; ++t) {
    double squares = 0;
    for (std::int64_t i = 0; i < kCols; ++i) {
      squares += std::pow(static_cast<double>(x[Size(t * kCols + i)]), 2);
    }
    const double scale = 1 / std::sqrt(squares / kCols + kEps);
    for (std::int64_t i = 0; i < kCols; ++i) {
      want.push_back(w[Size(i)] * scale * x[Size(t * kCols + i)]);
    }
  }
  Add("rmsnorm", "5 rows", DType::kF32, kFloatLimit, want, Download(y, T * kCols));
}

void Tests::Swiglu() {
  constexpr std::int64_t T = 3;
  const Floats gate = Random(T * kCols), up = Random(T * kCols);
  const ClBuffer dgate = Upload(gate), dup = Upload(up), y = Upload(up);
  kernels_.Swiglu(
      {{dgate.get(), 0}, kCols, {dup.get(), 0}, kCols, {y.get(), 0}, kCols, T, kCols});
  Doubles want;
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    want.push_back(g / (1 + std::exp(-g)) * up[i]);
  }
  Add("swiglu", "3 rows", DType::kF32, kFloatLimit, want, Download(y, T * kCols));
}

void Tests::Sum() {
  const Floats x = Random(kCols), before = Random(kCols);
  const ClBuffer dx = Upload(x), y = Upload(before);
  kernels_.Add({{dx.get(), 0}, {y.get(), 0}, kCols});
  Doubles want;
  for (std::size_t i = 0; i < x.size(); ++i) {
    want.push_back(static_cast<double>(x[i]) + before[i]);
  }
  Add("add", "512 values", DType::kF32, kFloatLimit, want, Download(y, kCols));
}

// The value of the largest in its place, and nothing elsewhere.
void Tests::Largest() {
  constexpr std::int64_t kLogits = 5000;
  Floats logits = Random(kLogits);
  const auto largest = static_cast<std::int64_t>(random_() % kLogits);
  logits[Size(largest)] = 2;
  const ClBuffer dlogits = Upload(logits);
  const ClBuffer best = device().Allocate(cl::kArgmaxParts * sizeof(cl::ArgmaxPart));
  kernels_.Argmax({{dlogits.get(), 0}, 1, kLogits, best.get()});
  std::vector<cl::ArgmaxPart> parts(cl::kArgmaxParts);
  device().BlockingRead(best.get(), 0, parts.data(), best.bytes());
  const auto at = std::ranges::max_element(parts, {}, &cl::ArgmaxPart::value);
  Add("argmax", "5000 logits", DType::kF32, 0, {static_cast<double>(largest) + 1, 2},
      {static_cast<float>(at->id) + 1, at->value});
}

void Tests::RowWise() {
  RmsNorm();
  Swiglu();
  Sum();
  Largest();
}

}  // namespace

double NormalizedError(std::span<const double> want, std::span<const float> got) {
  if (want.size() != got.size()) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(want[i], 2);
  }
  return difference == 0 ? 0 : difference / size;
}

std::vector<SelfTestRow> RunSelfTest(cl::Kernels& kernels, const SelfTestOptions& options) {
  Tests tests(kernels, options.seed);
  for (const DType format : options.formats) {
    if (IsDeviceFormat(format)) tests.Products(format);
  }
  tests.RowWise();
  return tests.TakeRows();
}

void RequirePassed(std::span<const SelfTestRow> rows, const ClDeviceInfo& device) {
  const auto failed = std::ranges::find_if_not(rows, &SelfTestRow::passes);
  if (failed == rows.end()) return;
  Throw<OpenClError>(
      "'{}' (driver {}) computes wrong numbers: kernel '{}' ({}, {}) has a normalized error of "
      "{:.2g}, at most {:.2g} expected; use another device or driver, or --device none",
      device.name, device.driver_version, failed->kernel, failed->shape, failed->format,
      failed->error, failed->limit);
}

std::string SelfTestText(std::span<const SelfTestRow> rows) {
  std::string text = fmt::format("{:<8}  {:<14}  {:<8}  {:>9}  {:>9}\n", "kernel", "shape",
                                 "format", "error", "limit");
  for (const SelfTestRow& row : rows) {
    text += fmt::format("{:<8}  {:<14}  {:<8}  {:>9.2g}  {:>9.2g}  {}\n", row.kernel, row.shape,
                        row.format, row.error, row.limit, row.passes() ? "ok" : "FAIL");
  }
  return text;
}

}  // namespace tandem
