#pragma once

#include <cstdint>

#include "model/range.h"

// What the fields of a config may be, whatever file they come from: ranges far beyond every
// published model, and small enough that no product of them overflows: heads * head dim * hidden is
// below 2^52, vocabulary * hidden below 2^43.
namespace tandem::config_range {

inline constexpr IntRange kWidth{1, 1 << 20};  // hidden_size, intermediate sizes
inline constexpr IntRange kLayers{1, 1000};
inline constexpr IntRange kMtpLayers{0, 64};
inline constexpr IntRange kHeads{1, 4096};
inline constexpr IntRange kHeadDim{1, 1 << 14};
inline constexpr IntRange kRank{1, 1 << 16};
inline constexpr IntRange kVocab{1, 1 << 23};
inline constexpr IntRange kPositions{1, std::int64_t{1} << 31};
inline constexpr IntRange kExperts{0, 1024};
inline constexpr IntRange kSharedExperts{0, 64};
inline constexpr IntRange kGroups{1, 64};  // what the router kernels hold
inline constexpr IntRange kTokenId{0, (std::int64_t{1} << 31) - 1};
inline constexpr RealRange kTheta{10, 1e12};
inline constexpr RealRange kEps{1e-20, 0.1};
inline constexpr RealRange kFactor{1, 1e6};
inline constexpr RealRange kBeta{1e-3, 1e6};
inline constexpr RealRange kMscale{0, 100};
inline constexpr RealRange kRoutedScaling{1e-6, 1e6};

}  // namespace tandem::config_range
