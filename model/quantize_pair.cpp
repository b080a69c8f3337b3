#include "model/quantize_pair.h"

#include <algorithm>
#include <cstring>

#include "memory/error.h"

namespace tandem::quantize {
namespace {

void Pack(const std::uint8_t* codes, BlockQ4_1& block) {
  for (int i = 0; i < 16; ++i) {
    block.q[i] = static_cast<std::uint8_t>(codes[i] | codes[i + 16] << 4);
  }
}

void Pack(const std::uint8_t* codes, BlockQ5_1& block) {
  for (int i = 0; i < 16; ++i) {
    block.q[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
  }
  for (int i = 0; i < 32; ++i) {
    block.qh[i / 8] = static_cast<std::uint8_t>(block.qh[i / 8] | codes[i] >> 4 << i % 8);
  }
}

template <class Block, int Max>
void Quantize(const PairSearch& search, Values values, std::byte* out) {
  Runs<32> runs;
  std::uint8_t codes[kLanes * 32];
  while (values.count > 0) {
    LoadRuns(values, runs);
    BestPair best = SearchPair<Max, false>(runs, search);
    for (float& s : best.s.v) s = RoundScale(s);
    for (float& b : best.b.v) b = RoundScale(b);
    PairCodes<Max>(runs, best.s, best.b, codes);
    const auto blocks = std::min<std::int64_t>(kLanes, values.count / 32);
    for (std::int64_t i = 0; i < blocks; ++i, out += sizeof(Block)) {
      Block block = {};
      block.d = ScaleBits(best.s.v[i]);
      block.m = ScaleBits(best.b.v[i]);
      Pack(codes + i * 32, block);
      std::memcpy(out, &block, sizeof(Block));
    }
    values.x += blocks * 32;
    values.first += blocks * 32;
    values.count -= blocks * 32;
  }
}

}  // namespace

void QuantizePair(DType type, const Values& values, std::byte* out) {
  if (type == DType::kQ4_1) return Quantize<BlockQ4_1, 15>({0, 0.03F, 3, 4}, values, out);
  TANDEM_CHECK(type == DType::kQ5_1);
  Quantize<BlockQ5_1, 31>({0, 0.02F, 3, 4}, values, out);
}

}  // namespace tandem::quantize
