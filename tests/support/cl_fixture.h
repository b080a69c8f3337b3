#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/kernels.h"
#include "memory/blocks.h"
#include "memory/cl_device.h"
#include "memory/error.h"
#include "memory/split_layout.h"

namespace tandem::test {

// The first OpenCL device of the machine, opened once per test program; null where there is none.
inline const ClDevice* TheClDevice() {
  static const std::vector<ClDeviceInfo> devices = ProbeClDevices().devices;
  static const std::unique_ptr<ClDevice> device =
      devices.empty() ? nullptr : std::make_unique<ClDevice>(devices.front());
  return device.get();
}

// A test runs for the generic forms in the shapes of either kind of device, which must be right
// everywhere, and for the forms that the device has of its own.
enum class Shapes { kCpu, kGpu, kOwn };
inline void PrintTo(Shapes shapes, std::ostream* os) {
  constexpr std::string_view kNames[] = {"cpu_shapes", "gpu_shapes", "own_forms"};
  *os << kNames[static_cast<int>(shapes)];
}

class ClTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (TheClDevice() == nullptr) GTEST_SKIP() << "no OpenCL device: " << ProbeClDevices().problem;
  }
  const ClDevice& device() const { return *TheClDevice(); }
};

class ClShapesTest : public ClTest, public ::testing::WithParamInterface<Shapes> {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (IsSkipped()) return;
    const ClDeviceInfo& info = device().info();
    if (GetParam() == Shapes::kGpu && info.max_work_group_size < 256) {
      GTEST_SKIP() << info.name << " runs no work-groups of 256";
    }
    if (GetParam() == Shapes::kOwn && cl::TraitsOf(device()).nv_compute == 0) {
      GTEST_SKIP() << info.name << " has no forms of its own";
    }
  }
  // Shared by the tests of one program, because compiling takes longer than running.
  cl::Kernels& kernels() {
    static std::unique_ptr<cl::Kernels> of_shapes[3];
    auto& kernels = of_shapes[static_cast<int>(GetParam())];
    if (!kernels) {
      kernels = std::make_unique<cl::Kernels>(device(), "", Traits());
    }
    return *kernels;
  }
  // GPU shapes on a CPU, whose compiler takes seconds over each large kernel.
  bool slow_to_compile() const { return GetParam() == Shapes::kGpu && device().info().is_cpu; }
  // Every weight format, or where compiling is slow FP8 alone: the formats differ in the decoding,
  // which the CPU shapes test, and linear_test has bf16 in every shape.
  std::vector<DType> Formats() const {
    if (slow_to_compile()) return {DType::kF8E4M3};
    return {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};
  }
  // The block formats that devices take. Where compiling is slow one with every part that a block
  // can have, a scale and a minimum, and one with a second side array.
  std::vector<DType> BlockFormats() const {
    if (slow_to_compile()) return {DType::kQ4_K, DType::kQ6_K};
    return {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kMXFP4,
            DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
  }
  cl::DeviceTraits Traits() const {
    if (GetParam() == Shapes::kCpu) return cl::CpuTraits(4);
    if (GetParam() == Shapes::kOwn) return cl::TraitsOf(device());
    cl::DeviceTraits traits = cl::GpuTraits(4);
    if (slow_to_compile()) traits.max_rows = 4;
    traits.few_rows_max = 16;  // so that 17 rows meet the tiles
    traits.few_rows_fill = false;
    return traits;
  }
};

// Device memory with the values of a vector, or zeros.
template <class T>
ClBuffer Upload(const ClDevice& device, const std::vector<T>& values) {
  ClBuffer buffer = device.Allocate(std::max<std::size_t>(values.size() * sizeof(T), 16));
  device.BlockingWrite(buffer.get(), 0, values.data(), values.size() * sizeof(T));
  return buffer;
}
template <class T>
std::vector<T> Download(const ClDevice& device, const ClBuffer& buffer, std::size_t count) {
  std::vector<T> values(count);
  device.BlockingRead(buffer.get(), 0, values.data(), count * sizeof(T));
  return values;
}

inline std::vector<float> RandomFloats(std::size_t count, unsigned seed, float size = 1.0F) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& v : values) {
    v = size * (static_cast<float>(random() >> 8) / static_cast<float>(1 << 23) - 1.0F);
  }
  return values;
}

// A matrix of weights in every form a test needs: the bytes for the device and the exact values.
struct TestWeight {
  DType dtype{};
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::uint8_t> bytes;
  std::vector<float> scales;       // FP8
  std::vector<std::uint8_t> side;  // block formats, as memory/split_layout.h has them
  std::vector<double> values;
};

inline double DecodeWeight(DType dtype, const std::uint8_t* p) {
  std::uint16_t half = 0;
  float whole = 0;
  std::memcpy(&half, p, std::min<std::size_t>(BytesOf(dtype), 2));
  switch (dtype) {
    case DType::kBF16:
      return Bf16ToF32(half);
    case DType::kF16:
      return F16ToF32(half);
    case DType::kF8E4M3:
      return E4M3ToF32(*p);
    default:
      std::memcpy(&whole, p, 4);
      return whole;
  }
}

inline void EncodeWeight(DType dtype, float value, std::uint8_t* p) {
  const std::uint16_t half = dtype == DType::kBF16 ? F32ToBf16(value) : F32ToF16(value);
  switch (dtype) {
    case DType::kBF16:
    case DType::kF16:
      std::memcpy(p, &half, 2);
      break;
    case DType::kF8E4M3:
      *p = F32ToE4M3(value);
      break;
    default:
      std::memcpy(p, &value, 4);
      break;
  }
}

// Where the f16 scales of a block lie: one, or two beside each other.
inline void SetBlockScales(DType dtype, std::uint8_t* block, std::mt19937& random) {
  const auto half = [&](float size) {
    return F32ToF16(size *
                    (0.5F + static_cast<float>(random() >> 8) / static_cast<float>(1 << 25)));
  };
  const bool pair = dtype == DType::kQ4_K || dtype == DType::kQ5_K;
  const std::uint16_t scales[2] = {half(1.0F / 512), half(1.0F / 512)};
  if (dtype == DType::kMXFP4) {
    block[0] = static_cast<std::uint8_t>(110 + random() % 8);
  } else if (dtype == DType::kQ6_K) {
    std::memcpy(block + BlockBytes(dtype) - 2, scales, 2);
  } else {
    std::memcpy(block, scales, pair ? 4 : 2);
  }
}

// Random codes and scales, in the layout of devices, and what DecodeBlocks makes of them.
inline TestWeight MakeBlockWeight(DType dtype, std::int64_t rows, std::int64_t cols,
                                  unsigned seed) {
  TestWeight w{dtype, rows, cols, {}, {}, {}, {}};
  std::mt19937 random(seed);
  std::vector<std::uint8_t> file(DataBytes(dtype, rows * cols));
  for (std::uint8_t& b : file) b = static_cast<std::uint8_t>(random() >> 11);
  for (std::size_t at = 0; at < file.size(); at += BlockBytes(dtype)) {
    SetBlockScales(dtype, &file[at], random);
  }
  const auto* blocks = reinterpret_cast<const std::byte*>(file.data());
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  DecodeBlocks(dtype, blocks, values);
  w.values.assign(values.begin(), values.end());
  w.bytes.resize(SplitDataBytes(dtype, rows, cols));
  w.side.resize(SplitSideBytes(dtype, rows, cols));
  std::array<std::byte*, 3> side = {};
  for (int i = 0; i < 3; ++i) {
    side[i] = reinterpret_cast<std::byte*>(w.side.data()) + SplitSideOffset(dtype, rows, cols, i);
  }
  SplitBlocks(dtype, blocks, rows, cols, reinterpret_cast<std::byte*>(w.bytes.data()), side);
  return w;
}

// Random weights, with subnormals, zeros and both signs among them.
inline TestWeight MakeWeight(DType dtype, std::int64_t rows, std::int64_t cols, unsigned seed) {
  if (IsBlockFormat(dtype)) return MakeBlockWeight(dtype, rows, cols, seed);
  TestWeight w{dtype, rows, cols, {}, {}, {}, {}};
  const std::size_t size = BytesOf(dtype);
  const float top = dtype == DType::kF8E4M3 ? 448.0F : 1.0F;
  std::vector<float> raw = RandomFloats(static_cast<std::size_t>(rows * cols), seed, top);
  const float smallest = dtype == DType::kF16 ? 3e-6F : dtype == DType::kF8E4M3 ? 0.01F : 1e-6F;
  for (std::size_t i = 0; i < raw.size(); i += 7) raw[i] *= smallest / top;
  const std::int64_t scale_cols = (cols + kFp8Block - 1) / kFp8Block;
  if (dtype == DType::kF8E4M3) {
    w.scales =
        RandomFloats(static_cast<std::size_t>((rows + kFp8Block - 1) / kFp8Block * scale_cols),
                     seed + 1, 1.0F / 512);
  }
  w.bytes.resize(raw.size() * size);
  w.values.resize(raw.size());
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t k = 0; k < cols; ++k) {
      const std::size_t i = static_cast<std::size_t>(n * cols + k);
      EncodeWeight(dtype, raw[i], &w.bytes[i * size]);
      w.values[i] = DecodeWeight(dtype, &w.bytes[i * size]);
      if (dtype == DType::kF8E4M3) {
        w.values[i] *=
            w.scales[static_cast<std::size_t>(n / kFp8Block * scale_cols + k / kFp8Block)];
      }
    }
  }
  return w;
}

// Lays weights out in one buffer at multiples of 256 bytes, as runtime does.
class WeightBlob {
 public:
  // The weight with offsets into the buffer that Upload will make.
  cl::Weight Add(const TestWeight& w) {
    cl::Weight out;
    out.dtype = w.dtype;
    out.rows = w.rows;
    out.cols = w.cols;
    out.offset = Append(w.bytes.data(), w.bytes.size());
    out.scale_offset = IsBlockFormat(w.dtype)
                           ? Append(w.side.data(), w.side.size())
                           : Append(w.scales.data(), w.scales.size() * sizeof(float));
    return out;
  }
  ClBuffer Upload(const ClDevice& device) const { return test::Upload(device, bytes_); }

 private:
  std::uint64_t Append(const void* data, std::size_t size) {
    const std::size_t at = (bytes_.size() + 255) / 256 * 256;
    bytes_.resize(at + size);
    if (size > 0) std::memcpy(bytes_.data() + at, data, size);
    return at;
  }
  std::vector<std::uint8_t> bytes_ = std::vector<std::uint8_t>(256);  // offset 0 is no special case
};

// A dot product in double and the sum of the sizes of its terms, which the tolerance is made of.
struct Reference {
  double value = 0;
  double size = 0;
  void Add(double x, double w) {
    value += x * w;
    size += std::fabs(x * w);
  }
};

// The worst ratio of error to tolerance of one test, and where it was.
class Worst {
 public:
  // c * eps * size, the bound of a sum in f32 whose roundings do not all add up the same way; the
  // least normal number covers results that vanish.
  void See(double got, const Reference& want, double c, std::int64_t row, std::int64_t column) {
    constexpr double kEps = std::numeric_limits<float>::epsilon();
    const double tolerance = c * kEps * want.size + std::numeric_limits<float>::min();
    const double ratio = std::fabs(got - want.value) / tolerance;
    if (ratio <= ratio_ && !std::isnan(ratio)) return;
    ratio_ = std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
    where_ = fmt::format("[{}, {}]: got {}, want {}, tolerance {}", row, column, got, want.value,
                         tolerance);
  }
  ::testing::AssertionResult Verdict() const {
    if (ratio_ <= 1) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure()
           << "error is " << ratio_ << " times the tolerance at " << where_;
  }

 private:
  double ratio_ = 0;
  std::string where_;
};

// c for a dot product of K terms: rounding errors of sums in several strands grow like the square
// root of their length; 4 covers the products, the strands' sum and chance.
inline double DotFactor(std::int64_t K) { return 4.0 + std::sqrt(static_cast<double>(K)) / 4.0; }

}  // namespace tandem::test
