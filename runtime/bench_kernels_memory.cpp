#include "runtime/bench_kernels_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "memory/split_layout.h"
#include "placement/byte_size.h"

namespace tandem {
namespace {

constexpr std::size_t kAlign = 256;
constexpr std::size_t kPatternBytes = std::size_t{8} << 20;

std::size_t Aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

float OneOf(std::mt19937& random) {
  return static_cast<float>(random() >> 8) / static_cast<float>(1 << 23) - 1.0F;
}

void PutFloats(DType type, std::mt19937& random, std::vector<std::byte>& bytes) {
  const std::size_t size = BytesOf(type);
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    const float value = OneOf(random);
    const std::uint16_t half = type == DType::kBF16 ? F32ToBf16(value) : F32ToF16(value);
    std::memcpy(&bytes[at], size == 4 ? static_cast<const void*>(&value) : &half, size);
  }
}

// Codes and scales lie anywhere, so every byte must serve as part of either: +-2^-31 to 2 as f32,
// +-0.125 to 2 as f16, +-0.5 to 1.9 as e4m3. MXFP4's scales are bytes without sign, 2^-7 to 1.
void PutBytes(DType type, std::mt19937& random, std::vector<std::byte>& bytes) {
  const bool exponents = type == DType::kMXFP4;
  const std::uint32_t mask = exponents ? 0x07070707U : 0x8f8f8f8fU;
  const std::uint32_t base = exponents ? 0x78787878U : 0x30303030U;
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint32_t)) {
    const auto word = static_cast<std::uint32_t>(random() & mask) | base;
    std::memcpy(&bytes[at], &word, sizeof(word));
  }
}

// What fills a buffer alike.
DType KindOf(DType type) {
  return IsBlockFormat(type) && type != DType::kMXFP4 ? DType::kF8E4M3 : type;
}

// Once from the host, then in copies that double.
void Repeat(const ClDevice& device, const ClBuffer& buffer, const std::vector<std::byte>& pattern) {
  std::size_t done = std::min(pattern.size(), buffer.bytes());
  device.BlockingWrite(buffer.get(), 0, pattern.data(), done);
  while (done < buffer.bytes()) {
    const std::size_t more = std::min(done, buffer.bytes() - done);
    device.Copy(buffer.get(), 0, buffer.get(), done, more);
    done += more;
  }
}

}  // namespace

BenchMemory::BenchMemory(const ClDevice& device, std::size_t weight_bytes)
    : device_(device), values_(kPatternBytes), weights_(device.Allocate(weight_bytes)) {
  std::mt19937 random(2);
  PutFloats(DType::kF32, random, values_);
}

void BenchMemory::Fill(DType type) {
  const DType kind = KindOf(type);
  if (filled_ == kind) return;
  std::mt19937 random(1);
  std::vector<std::byte> pattern(kPatternBytes);
  kind == DType::kF8E4M3 || kind == DType::kMXFP4 ? PutBytes(kind, random, pattern)
                                                  : PutFloats(kind, random, pattern);
  Repeat(device_, weights_, pattern);
  filled_ = kind;
}

std::size_t BenchMemory::MatrixBytes(DType type, std::int64_t rows, std::int64_t cols) {
  const auto blocks = [](std::int64_t n) { return (n + kFp8Block - 1) / kFp8Block; };
  const std::size_t scales =
      type == DType::kF8E4M3 ? static_cast<std::size_t>(blocks(rows) * blocks(cols)) * sizeof(float)
                             : SplitSideBytes(type, rows, cols);
  return Aligned(SplitDataBytes(type, rows, cols)) + Aligned(scales);
}

cl::Weight BenchMemory::MatrixAt(std::uint64_t at, DType type, std::int64_t rows,
                                 std::int64_t cols) const {
  return {weights(), at, at + Aligned(SplitDataBytes(type, rows, cols)), type, rows, cols};
}

std::vector<cl::Weight> BenchMemory::Matrices(DType type, std::int64_t rows,
                                              std::int64_t cols) const {
  std::vector<cl::Weight> matrices;
  const std::size_t bytes = MatrixBytes(type, rows, cols);
  for (std::size_t at = 0; at + bytes <= weight_bytes(); at += bytes) {
    matrices.push_back(MatrixAt(at, type, rows, cols));
  }
  return matrices;
}

ClBuffer BenchMemory::Values(std::int64_t count) const {
  ClBuffer buffer = device_.Allocate(static_cast<std::size_t>(count) * sizeof(float));
  Repeat(device_, buffer, values_);
  return buffer;
}

ClBuffer BenchMemory::Words(const std::vector<std::int32_t>& words) const {
  ClBuffer buffer = device_.Allocate(words.size() * sizeof(std::int32_t));
  device_.BlockingWrite(buffer.get(), 0, words.data(), buffer.bytes());
  return buffer;
}

std::string BenchMemory::WhyNot(std::uint64_t needed, std::uint64_t buffer_bytes) const {
  if (needed > weight_bytes()) {
    return fmt::format("it reads {} at once, and {} of this device are used", FormatBytes(needed),
                       FormatBytes(weight_bytes()));
  }
  const std::uint64_t most = device_.info().max_alloc_bytes;
  if (buffer_bytes <= most) return {};
  return fmt::format("it needs a buffer of {}, and the device's largest has {}",
                     FormatBytes(buffer_bytes), FormatBytes(most));
}

}  // namespace tandem
