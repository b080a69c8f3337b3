#pragma once

#include <cstdint>

#include "cpu_kernels/body.h"
#include "cpu_kernels/linear.h"
#include "cpu_kernels/panel.h"

// Rows of quantised x, panels and rows of y for the bodies of the kernels of block formats.

namespace tandem::cpu {
namespace {

constexpr std::int64_t kGroupCols = 32;

struct XRowOfCodes {
  const std::int8_t* codes;
  const float* scales;
  const std::int32_t* sums;
};

// Row t from column k0 on, a multiple of 32.
TANDEM_INLINE XRowOfCodes XCodes(const LinearArgs& a, std::int64_t t, std::int64_t k0) {
  const std::int64_t row = a.x_rows != nullptr ? a.x_rows[t] : t;
  const std::int64_t at = row * a.x_stride + k0;
  return {static_cast<const std::int8_t*>(a.x) + at, a.x_scale + at / kGroupCols,
          a.x_sum + at / 16};
}

// Where part i of T rows begins, cut into `parts` as equal as may be: no part of rows cut into
// parts of at most 2 m has less than m, so that only m to 2 m need be compiled.
TANDEM_INLINE std::int64_t Cut(std::int64_t T, std::int64_t i, std::int64_t parts) {
  return T * i / parts;
}

template <class W>
constexpr std::int64_t kUnitCols = W::kGroups* kGroupCols;

// The units of the panel that begins with row n, from column k0 on.
template <class W>
TANDEM_INLINE const typename W::Panel* Units(const LinearArgs& a, std::int64_t n, std::int64_t k0) {
  const std::int64_t unit = n / kPanelRows * (a.K / kUnitCols<W>)+k0 / kUnitCols<W>;
  return static_cast<const typename W::Panel*>(a.w) + unit;
}

template <class S>
constexpr int kParts = static_cast<int>(kPanelRows) / S::kLanes;  // vectors that hold 16 rows

// y of the rows [n, n + S::kLanes) of w, of which those from n1 on do not exist.
template <class S>
TANDEM_INLINE void StoreLanes(const LinearArgs& a, std::int64_t t, std::int64_t n,
                              typename S::F sums) {
  float* y = a.y + (a.y_rows != nullptr ? a.y_rows[t] : t) * a.y_stride + n;
  if (n + S::kLanes <= a.n1) {
    S::StoreF(y, a.accumulate ? S::AddF(S::LoadF(y), sums) : sums);
    return;
  }
  float lanes[S::kLanes];
  S::StoreF(lanes, sums);
  for (std::int64_t r = 0; n + r < a.n1; ++r) y[r] = a.accumulate ? y[r] + lanes[r] : lanes[r];
}

// A term of every run of a row of x: what its min is multiplied by, or minus what the offset of the
// codes adds to the integer sum.
union Term {
  float factor;
  std::int32_t start;
};

// What of a format the multiplication of decoded codes depends on, so that formats share it.
template <int kRunsOf, bool kMinOf, bool kStartsOf, int kCodesOf>
struct Kind {
  static constexpr int kRuns = kRunsOf;
  static constexpr bool kMin = kMinOf;
  static constexpr bool kStarts = kStartsOf;  // integer sums start at what the offset adds
  static constexpr int kCodes = kCodesOf;     // the largest code, rounded up
  static constexpr bool kHasTerms = kMin || kStarts;
};

// Codes above 127 saturate vpmaddubsw: levels without vpdpbusd take them as signed bytes, which
// need no offset.
template <class S, class W>
using KindOf = Kind<W::kRuns, W::kMin, W::kOffset != 0 && (S::kVnni || W::kMaxCode <= 127),
                    S::kVnni            ? 255
                    : W::kMaxCode <= 15 ? 15
                    : W::kMaxCode <= 31 ? 31
                    : W::kMaxCode <= 63 ? 63
                                        : 255>;

template <class K>
TANDEM_INLINE void MakeTerms(const XRowOfCodes& x, std::int64_t groups, std::int32_t offset,
                             Term* terms) {
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t run = 0; run < K::kRuns; ++run) {
      const std::int64_t first = 2 * g + run;
      const std::int32_t sum = K::kRuns == 2 ? x.sums[first] : x.sums[first] + x.sums[first + 1];
      if constexpr (K::kMin) {
        terms[g * K::kRuns + run].factor = x.scales[g] * static_cast<float>(sum);
      } else {
        terms[g * K::kRuns + run].start = -offset * sum;
      }
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
