#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "model/tensor_source.h"

namespace tandem {

// Random weights made on the fly, for measuring speed without a download: a pure function of the
// tensor's name and the offset, the same on every machine. Weights have a standard deviation of
// about 0.02, norms are near 1, FP8 codes are never NaN.
class SyntheticSource final : public TensorSource {
 public:
  void Read(const TensorInfo& tensor, Piece piece, std::uint64_t offset,
            std::span<std::byte> dst) const override;
};

}  // namespace tandem
