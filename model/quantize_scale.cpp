#include "model/quantize_scale.h"

#include <algorithm>
#include <cstring>

#include "memory/error.h"

namespace tandem::quantize {
namespace {

// Without -128, as ggml writes it: kernels of other programs take the code's magnitude and put the
// sign on the other factor, and -128 has no magnitude in 8 bits.
void Pack(std::uint16_t d, const std::uint8_t* codes, BlockQ8_0& block) {
  block.d = d;
  for (int i = 0; i < 32; ++i) block.q[i] = static_cast<std::int8_t>(codes[i] - 127);
}

// BlockQ4_0 and BlockIQ4_NL.
template <class Block>
void Pack(std::uint16_t d, const std::uint8_t* codes, Block& block) {
  block.d = d;
  for (int i = 0; i < 16; ++i) {
    block.q[i] = static_cast<std::uint8_t>(codes[i] | codes[i + 16] << 4);
  }
}

void Pack(std::uint16_t d, const std::uint8_t* codes, BlockQ5_0& block) {
  block = {d, {}, {}};
  for (int i = 0; i < 16; ++i) {
    block.q[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
  }
  for (int i = 0; i < 32; ++i) {
    block.qh[i / 8] = static_cast<std::uint8_t>(block.qh[i / 8] | codes[i] >> 4 << i % 8);
  }
}

template <class Block, class Grid>
void Quantize(const ScaleSearch& search, Values values, std::byte* out) {
  Runs<32> runs;
  std::uint8_t codes[kLanes * 32];
  while (values.count > 0) {
    LoadRuns(values, runs);
    Lanes d = SearchScale<Grid>(runs, search).d;
    for (float& scale : d.v) scale = RoundScale(scale);
    ScaleCodes<Grid>(runs, d, codes);
    const auto blocks = std::min<std::int64_t>(kLanes, values.count / 32);
    for (std::int64_t b = 0; b < blocks; ++b, out += sizeof(Block)) {
      Block block;
      Pack(ScaleBits(d.v[b]), codes + b * 32, block);
      std::memcpy(out, &block, sizeof(Block));
    }
    values.x += blocks * 32;
    values.first += blocks * 32;
    values.count -= blocks * 32;
  }
}

}  // namespace

void QuantizeScale(DType type, const Values& values, std::byte* out) {
  switch (type) {
    case DType::kQ8_0:
      return Quantize<BlockQ8_0, UniformGrid<-127, 127>>({0.985F, 0.005F, 5, 1}, values, out);
    case DType::kQ4_0:
      return Quantize<BlockQ4_0, UniformGrid<-8, 7>>({0.75F, 0.04F, 10, 2}, values, out);
    case DType::kQ5_0:
      return Quantize<BlockQ5_0, UniformGrid<-16, 15>>({0.85F, 0.03F, 8, 2}, values, out);
    case DType::kIQ4_NL:
      return Quantize<BlockIQ4_NL, Iq4Grid>({0.8F, 0.04F, 10, 2}, values, out);
    default:
      TANDEM_CHECK(type == DType::kQ8_0);
  }
}

}  // namespace tandem::quantize
