#include <algorithm>
#include <bit>
#include <cstring>

#include "memory/blocks.h"
#include "memory/error.h"
#include "model/gguf_tensors.h"

namespace tandem {
namespace {

constexpr std::int64_t kDecodeElements = 1 << 14;  // f32 values that stay in the first-level caches

// As F32ToF16, without a call where the result is a normal number.
std::uint16_t ToF16(float value) {
  const float magnitude = value < 0 ? -value : value;
  if (!(magnitude >= 6.103515625e-05F && magnitude < 65504.0F)) return F32ToF16(value);
  auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7FFFFFFF;
  bits += 0xFFF + ((bits >> 13) & 1);  // to the nearest, ties to even
  return static_cast<std::uint16_t>(sign | ((bits - (std::uint32_t{112} << 23)) >> 13));
}

}  // namespace

GgufSource::GgufSource(std::vector<File> files, const Config& config, std::vector<DType> joint_kv_b)
    : files_(std::move(files)), joint_kv_b_(std::move(joint_kv_b)) {
  if (config.attention == AttentionKind::kMha) interleaved_head_dim_ = config.qk_rope_head_dim;
}

const File& GgufSource::FileOf(const TensorInfo& tensor) const {
  const int file = tensor.data.file;
  TANDEM_CHECK(file >= 0 && static_cast<std::size_t>(file) < files_.size());
  return files_[static_cast<std::size_t>(file)];
}

void GgufSource::Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
                      std::span<std::byte> dst) const {
  TANDEM_CHECK(piece == Piece::kData);
  TANDEM_CHECK(offset <= tensor.data.bytes && dst.size() <= tensor.data.bytes - offset);
  const bool roped = tensor.part == Part::kQ || tensor.part == Part::kK;
  if (roped && interleaved_head_dim_ > 0) return ReadRoped(tensor, offset, dst);
  if (tensor.part == Part::kKvB) {
    const DType stored = joint_kv_b_[static_cast<std::size_t>(tensor.layer)];
    if (stored != DType::kOther) return ReadDecoded(tensor, stored, offset, dst);
  }
  FileOf(tensor).PReadExact(tensor.data.offset + offset, dst);
}

// The conversion of the `deepseek` family to GGUF turns RoPE's two halves of a head into pairs: the
// model's row j d/2 + i of a head (j 0 or 1) is row 2 i + j in the file.
void GgufSource::ReadRoped(const TensorInfo& tensor, std::uint64_t offset,
                           std::span<std::byte> dst) const {
  const std::uint64_t row_bytes = DataBytes(tensor.dtype, tensor.cols());
  const auto d = static_cast<std::uint64_t>(interleaved_head_dim_);
  for (std::size_t done = 0; done < dst.size();) {
    const std::uint64_t row = (offset + done) / row_bytes;
    const std::uint64_t skip = (offset + done) % row_bytes;
    const std::uint64_t in_head = row % d;
    const std::uint64_t stored = row - in_head + 2 * (in_head % (d / 2)) + in_head / (d / 2);
    const auto bytes = std::min<std::size_t>(row_bytes - skip, dst.size() - done);
    FileOf(tensor).PReadExact(tensor.data.offset + stored * row_bytes + skip,
                              dst.subspan(done, bytes));
    done += bytes;
  }
}

// F16 of blocks. The window need not begin or end with a block, or even with a value.
void GgufSource::ReadDecoded(const TensorInfo& tensor, DType stored, std::uint64_t offset,
                             std::span<std::byte> dst) const {
  constexpr std::uint64_t kF16 = sizeof(std::uint16_t);
  const std::int64_t step = kDecodeElements;
  TANDEM_CHECK(step % BlockElements(stored) == 0);
  std::vector<std::byte> blocks(DataBytes(stored, step));
  std::vector<float> values(step);
  std::vector<std::uint16_t> halves(step);
  for (std::size_t done = 0; done < dst.size();) {
    const std::uint64_t at = offset + done;
    const auto first = static_cast<std::int64_t>(at / kF16) / step * step;
    const std::int64_t count = std::min(step, tensor.elements() - first);
    const std::uint64_t bytes = DataBytes(stored, count);
    FileOf(tensor).PReadExact(tensor.data.offset + DataBytes(stored, first),
                              std::span(blocks).first(bytes));
    DecodeBlocks(stored, blocks.data(), std::span(values).first(count));
    std::transform(values.begin(), values.begin() + count, halves.begin(), ToF16);
    const std::uint64_t skip = at - static_cast<std::uint64_t>(first) * kF16;
    const auto taken =
        std::min<std::size_t>(static_cast<std::uint64_t>(count) * kF16 - skip, dst.size() - done);
    std::memcpy(dst.data() + done, reinterpret_cast<const std::byte*>(halves.data()) + skip, taken);
    done += taken;
  }
}

}  // namespace tandem
