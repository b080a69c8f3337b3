#include "tests/support/quant_fixture.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "cpu_kernels/panel.h"
#include "tests/support/tolerance.h"

namespace tandem::test {
namespace {

std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

void PutHalf(std::byte* at, float value) {
  const std::uint16_t half = F32ToF16(value);
  std::memcpy(at, &half, sizeof half);
}

struct Field {
  std::size_t at, size;
};

// Where a block keeps its f16 scales, and its codes: (first byte, bytes).
struct Layout {
  std::vector<std::size_t> halves;
  std::vector<Field> codes;
};
Layout LayoutOf(DType type) {
  switch (type) {
    case DType::kQ4_1:
      return {{offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m)}, {{offsetof(BlockQ4_1, q), 16}}};
    case DType::kQ5_1:
      return {{offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m)}, {{offsetof(BlockQ5_1, qh), 20}}};
    case DType::kQ2_K:
      return {{offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)}, {{offsetof(BlockQ2_K, q), 64}}};
    case DType::kQ4_K:
      return {{offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin)}, {{offsetof(BlockQ4_K, q), 128}}};
    case DType::kQ5_K:
      return {{offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin)},
              {{offsetof(BlockQ5_K, qh), 160}}};
    case DType::kQ3_K:
      return {{offsetof(BlockQ3_K, d)}, {}};
    case DType::kQ6_K:
      return {{offsetof(BlockQ6_K, d)}, {}};
    case DType::kMXFP4:
      return {{}, {}};
    default:
      return {{0}, {}};  // d comes first
  }
}

std::vector<std::byte> RandomBlocks(Random& random, DType type, std::int64_t count) {
  const std::size_t bytes = BlockBytes(type);
  std::vector<std::byte> blocks(Size(count) * bytes);
  for (std::byte& byte : blocks) byte = static_cast<std::byte>(random.Integer(0, 255));
  const Layout layout = LayoutOf(type);
  for (std::size_t i = 0; i < Size(count); ++i) {
    for (const std::size_t at : layout.halves) {
      PutHalf(&blocks[i * bytes + at], random.Uniform(-0.02F, 0.02F));
    }
    if (type == DType::kMXFP4) blocks[i * bytes] = static_cast<std::byte>(random.Integer(110, 125));
  }
  return blocks;
}

// Values with all codes 0: the mins.
std::vector<float> Mins(DType type, std::vector<std::byte> blocks, std::size_t elements) {
  const Layout layout = LayoutOf(type);
  std::vector<float> mins(elements);
  if (layout.codes.empty()) return mins;
  for (std::size_t i = 0; i < blocks.size(); i += BlockBytes(type)) {
    for (const Field& field : layout.codes) std::memset(&blocks[i + field.at], 0, field.size);
  }
  DecodeBlocks(type, blocks.data(), mins);
  return mins;
}

PackedWeights FromBlocks(DType type, std::int64_t rows, std::int64_t cols,
                         const std::vector<std::byte>& blocks) {
  PackedWeights w{type, rows, cols, std::vector<float>(Size(rows * cols)), {}, {}};
  DecodeBlocks(type, blocks.data(), w.values);
  w.mins = Mins(type, blocks, w.values.size());
  w.storage.resize(PackedBytes(type, rows, cols) + 64);
  w.start = (64 - reinterpret_cast<std::uintptr_t>(w.storage.data()) % 64) % 64;
  cpu::PackPanels(type, blocks.data(), rows, cols, w.storage.data() + w.start);
  return w;
}

}  // namespace

PackedWeights RandomWeights(Random& random, DType type, std::int64_t rows, std::int64_t cols) {
  return FromBlocks(type, rows, cols,
                    RandomBlocks(random, type, rows * cols / BlockElements(type)));
}

PackedWeights FilledWeights(DType type, std::int64_t rows, std::int64_t cols, int fill) {
  std::vector<std::byte> blocks(DataBytes(type, rows * cols), static_cast<std::byte>(fill));
  const Layout layout = LayoutOf(type);
  for (std::size_t i = 0; i < blocks.size(); i += BlockBytes(type)) {
    for (const std::size_t at : layout.halves) PutHalf(&blocks[i + at], 0.01F);
    if (type == DType::kMXFP4) blocks[i] = std::byte{120};
  }
  return FromBlocks(type, rows, cols, blocks);
}

void Quantise(cpu::Isa isa, QuantisedRows& x) {
  cpu::QuantizeArgs a;
  a.x = x.x.data();
  a.x_stride = x.stride;
  a.q = x.codes.data();
  a.scale = x.scale.data();
  a.sum = x.sums.data();
  a.stride = x.stride;
  a.T = x.rows;
  a.K = x.cols;
  cpu::MakeKernelTable(isa).quantize_rows(a);
}

QuantisedRows RandomRows(Random& random, std::int64_t rows, std::int64_t cols) {
  const std::int64_t stride = cols + 32;
  const std::size_t size = Size(rows * stride);
  QuantisedRows x{rows,
                  cols,
                  stride,
                  random.Uniforms(rows * stride, -1, 1),
                  std::vector<float>(size / 32, kUntouched),
                  std::vector<std::int8_t>(size, 99),
                  std::vector<std::int32_t>(size / 16, -77)};
  for (std::size_t block = 0; block < size / 32; ++block) {
    const std::int64_t kind = random.Integer(0, 9);
    const float factor = kind == 0 ? 0.0F : kind == 1 ? 20.0F : kind == 2 ? 1e-3F : 1.0F;
    for (std::size_t i = 0; i < 32; ++i) x.x[block * 32 + i] *= factor;
  }
  Quantise(cpu::Isa::kRef, x);
  return x;
}

cpu::LinearArgs QuantArgs(const QuantisedRows& x, DType x_type, const PackedWeights& w,
                          std::vector<float>& y) {
  cpu::LinearArgs a;
  a.x_type = x_type;
  a.x = x_type == DType::kF32 ? static_cast<const void*>(x.x.data()) : x.codes.data();
  a.x_stride = x.stride;
  a.x_scale = x.scale.data();
  a.x_sum = x.sums.data();
  a.w = w.panels();
  a.y = y.data();
  a.y_stride = w.rows;
  a.T = x.rows;
  a.K = x.cols;
  a.n1 = w.rows;
  return a;
}

void CallLinear(cpu::Isa isa, DType format, const cpu::LinearArgs& args) {
  cpu::MakeKernelTable(isa).linear[static_cast<int>(format)](args);
}

std::string CaseName(cpu::Isa isa, DType x_type, const QuantisedRows& x, const PackedWeights& w) {
  return fmt::format("{} {} x {} rows {} N {} K {}", Name(isa), Name(w.type), Name(x_type), x.rows,
                     w.rows, x.cols);
}

ExpectedProducts NaiveProducts(const QuantisedRows& x, const PackedWeights& w) {
  ExpectedProducts e;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      double exact = 0, rounded = 0, size = 0, rounded_size = 0, variance = 0;
      for (std::int64_t k = 0; k < x.cols; ++k) {
        const double value = w.value(n, k);
        const double parts = std::fabs(value - w.min(n, k)) + std::fabs(w.min(n, k));
        exact += x.exact(t, k) * value;
        rounded += x.rounded(t, k) * value;
        size += std::fabs(x.exact(t, k)) * parts;
        rounded_size += std::fabs(x.rounded(t, k)) * parts;
        const double step = x.step(t, k) * value;
        variance += step * step / 12;
      }
      e.exact.push_back(exact);
      e.exact_tolerance.push_back(SumTolerance(x.cols) * size);
      e.rounded.push_back(rounded);
      e.rounded_tolerance.push_back(SumTolerance(x.cols) * rounded_size);
      e.rounding.push_back(e.rounded_tolerance.back() + 6 * std::sqrt(variance));
    }
  }
  return e;
}

}  // namespace tandem::test
