#include "cpu_kernels/attention.h"

#include "cpu_kernels/amx/attention.h"
#include "cpu_kernels/amx/attention_prepare.h"
#include "cpu_kernels/amx/attention_products.h"
#include "cpu_kernels/amx/attention_rows.h"
#include "cpu_kernels/amx/attention_softmax.h"
#include "cpu_kernels/avx512/kernels.h"

// Attention on tiles of bf16. The keys are the A operand as they lie, so that scores come as
// [keys, queries] and softmax runs down the lanes; their weights change places once to be A against
// the values, whose neighbouring keys lie interleaved as B wants them.

namespace tandem::cpu::amx {
namespace {

constexpr float kLowest = -3.0e38F;

bool SeesNothing(const Task& t, std::int64_t g, bool two) {
  const std::int64_t last = Min(t.a.n, (g + (two ? 2 : 1)) * kGroup);
  for (std::int64_t i = g * kGroup; i < last; ++i) {
    if (t.a.n_keys[i] > t.j0) return false;
  }
  return true;
}

void Start(const Task& t) {
  for (std::int64_t i = 0; i < t.a.n; ++i) {
    t.a.maximum[i] = kLowest;
    t.a.sum[i] = 0;
    for (std::int64_t c = 0; c < t.a.dv; ++c) t.a.out[i * t.a.out_stride + c] = 0;
  }
}

// Copies the rows of a last group that is not whole to its tile-shaped place, or back.
void MoveLast(const Task& t, bool back) {
  const std::int64_t first = t.a.n / kGroup * kGroup;
  if (first == t.a.n) return;
  for (std::int64_t i = 0; i < kGroup; ++i) {
    float* at = t.last_out + i * t.a.dv;
    for (std::int64_t c = 0; c < t.a.dv; ++c) {
      float* out = t.a.out + (first + i) * t.a.out_stride + c;
      if (first + i >= t.a.n) {
        at[c] = 0;
      } else if (back) {
        *out = at[c];
      } else {
        at[c] = *out;
      }
    }
  }
}

}  // namespace

void AttentionBf16(const AttentionArgs& args) {
  Task t(args);
  const Tiles tiles;
  if (!args.carry) {
    Start(t);
    PackQueries(t);
  }
  MoveLast(t, false);
  for (std::int64_t j0 = args.first_key; j0 < args.last_key; j0 += kAttentionKeys) {
    PrepareKeys(t, j0);
    for (std::int64_t g = 0; g < t.groups; g += 2) {
      const bool two = g + 1 < t.groups;
      if (SeesNothing(t, g, two)) continue;
      Scores(t, g, two);
      Softmax(t, g, 0).Run();
      if (two) Softmax(t, g + 1, 1).Run();
      AddValues(t, g, two);
    }
  }
  MoveLast(t, true);
}

void KvDecode(const KvDecodeArgs& a) {
  if (a.out_type == DType::kF32 || a.out_stride % 32 != 0) return avx512::KvDecode(a);
  const auto* row = static_cast<const std::uint8_t*>(a.rows);
  const std::int64_t bytes = KvRowBytes(a.layout);
  auto* out = static_cast<std::uint16_t*>(a.out);
  for (std::int64_t i = 0; i < a.n; ++i, row += bytes, out += a.out_stride) {
    RoundRow(a.layout, row, 0, a.layout.width, out);
  }
}

}  // namespace tandem::cpu::amx
