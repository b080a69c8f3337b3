// ctest: unit
#include "cpu_kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Random;

struct Shape {
  bool mla = true;
  std::int64_t n = 0;  // queries
  std::int64_t dk = 0;
  std::int64_t dv = 0;
  std::int64_t n_keys = 0;
  std::int64_t rows = 1;  // queries are heads of so many rows at consecutive positions
};

// One attention problem with a paged cache, and what its rows hold after rounding to their type.
struct Problem {
  AttentionArgs args;
  Shape shape;
  std::vector<float> q;
  std::vector<float> cache;  // [n_keys, width] as decoded
  std::int64_t width = 0;
  std::vector<std::vector<std::uint8_t>> blocks;
  std::vector<const void*> pointers;
  std::vector<std::int32_t> n_keys;
  std::vector<float> out, maximum, sum, scratch, packed;
};

void FillCache(Problem& p, DType type, Random& random) {
  const KvLayout layout{type, p.width, p.shape.dv};
  const std::int64_t bytes = KvRowBytes(layout);
  const KernelTable ref = MakeKernelTable(Isa::kRef);
  p.cache.resize(static_cast<std::size_t>(p.shape.n_keys * p.width));
  for (std::int64_t j0 = 0; j0 < p.shape.n_keys; j0 += kKvBlockTokens) {
    const std::int64_t tokens = std::min(kKvBlockTokens, p.shape.n_keys - j0);
    // What no token was written to may hold anything.
    auto& block = p.blocks.emplace_back(static_cast<std::size_t>(kKvBlockTokens * bytes), 0xFF);
    const std::vector<float> x = random.Uniforms(tokens * p.width, -1, 1);
    if (p.width <= kMostKvWidth) {
      ref.kv_encode({layout, x.data(), p.width, block.data(), tokens});
      ref.kv_decode(
          {layout, block.data(), tokens, p.cache.data() + j0 * p.width, DType::kF32, p.width});
      continue;
    }
    for (std::int64_t i = 0; i < tokens * p.width; ++i) {
      ref.kv_encode({{type, 1, 0},
                     &x[static_cast<std::size_t>(i)],
                     1,
                     block.data() + static_cast<std::size_t>(i) * BytesOf(type),
                     1});
      ref.kv_decode({{type, 1, 0},
                     block.data() + static_cast<std::size_t>(i) * BytesOf(type),
                     1,
                     p.cache.data() + j0 * p.width + i,
                     DType::kF32,
                     1});
    }
  }
  p.args.token_bytes = bytes;
}

Problem Make(DType kv_type, const Shape& s, float q_limit) {
  Random random(static_cast<std::uint64_t>(s.n_keys * 1000 + s.n * 10 + s.dk));
  Problem p;
  p.shape = s;
  p.width = s.mla ? s.dk : s.n * (s.dk + s.dv);
  FillCache(p, kv_type, random);
  for (const auto& block : p.blocks) p.pointers.push_back(block.data());
  AttentionArgs& a = p.args;
  a.kv_type = kv_type;
  a.q_stride = s.dk + 1;
  p.q = random.Uniforms(s.n * a.q_stride, -q_limit, q_limit);
  a.out_stride = s.dv + 2;
  p.out.assign(static_cast<std::size_t>(s.n * a.out_stride), std::nanf(""));
  p.maximum.assign(static_cast<std::size_t>(s.n), std::nanf(""));
  p.sum = p.maximum;
  p.scratch.assign(static_cast<std::size_t>(AttentionScratchFloats(s.dk, s.dv)), std::nanf(""));
  p.packed.assign(static_cast<std::size_t>(PackedQueryFloats(s.n, s.dk)), std::nanf(""));
  a.n = s.n;
  a.k_head_stride = s.mla ? 0 : s.dk;
  a.v_offset = s.mla ? 0 : s.n * s.dk;
  a.v_head_stride = s.mla ? 0 : s.dv;
  a.last_key = s.n_keys;
  for (std::int64_t i = 0; i < s.n; ++i) {  // the last row sees all keys
    p.n_keys.push_back(static_cast<std::int32_t>(
        std::max<std::int64_t>(1, s.n_keys - s.rows + 1 + i * s.rows / s.n)));
  }
  a.dk = s.dk;
  a.dv = s.dv;
  a.scale = 1.0F / std::sqrt(static_cast<float>(s.dk));
  return p;
}

enum class Kernel { kF32, kBf16 };

void Point(Problem& p) {
  p.args.q = p.q.data();
  p.args.blocks = p.pointers.data();
  p.args.n_keys = p.n_keys.data();
  p.args.out = p.out.data();
  p.args.maximum = p.maximum.data();
  p.args.sum = p.sum.data();
  p.args.scratch = p.scratch.data();
  p.args.packed = p.packed.data();
}

void Call(Isa isa, Kernel kernel, Problem& p) {
  Point(p);
  const KernelTable table = MakeKernelTable(isa);
  (kernel == Kernel::kF32 ? table.attention : table.attention_bf16)(p.args);
}

std::vector<float> Compact(const Problem& p) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < p.args.n; ++i) {
    const float* start = p.out.data() + i * p.args.out_stride;
    for (std::int64_t c = 0; c < p.args.dv; ++c) {
      out.push_back(start[c] / p.sum[static_cast<std::size_t>(i)]);
    }
  }
  return out;
}

struct Naive {
  std::vector<double> out;
  double magnitude = 0;  // of the terms of a score, at the most
};

const float* Cached(const Problem& p, std::int64_t j, std::int64_t element) {
  return p.cache.data() + j * p.width + element;
}

Naive Formula(const Problem& p) {
  const AttentionArgs& a = p.args;
  Naive naive;
  for (std::int64_t i = 0; i < a.n; ++i) {
    std::vector<double> weights;
    for (std::int64_t j = 0; j < p.n_keys[static_cast<std::size_t>(i)]; ++j) {
      const float* k = Cached(p, j, a.k_offset + i * a.k_head_stride);
      const float* q = p.q.data() + i * a.q_stride;
      double sum = 0;
      double magnitude = 0;
      for (std::int64_t c = 0; c < a.dk; ++c) {
        const double term = static_cast<double>(k[c]) * q[c] * a.scale;
        sum += term;
        magnitude += std::fabs(term);
      }
      weights.push_back(sum);
      naive.magnitude = std::max(naive.magnitude, magnitude);
    }
    const double maximum = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - maximum);
    std::vector<double> out(static_cast<std::size_t>(a.dv));
    for (std::size_t j = 0; j < weights.size(); ++j) {
      const float* v = Cached(p, static_cast<std::int64_t>(j), a.v_offset + i * a.v_head_stride);
      for (std::size_t c = 0; c < out.size(); ++c) out[c] += weights[j] / sum * v[c];
    }
    naive.out.insert(naive.out.end(), out.begin(), out.end());
  }
  return naive;
}

// |v| <= 1, so an error e in every score moves an output by at most 2e; the sum over keys adds its
// own roundings.
double Limit(const Problem& p, const Naive& naive, Kernel kernel) {
  const double f32 = 2 * naive.magnitude * test::SumTolerance(p.args.dk) +
                     test::SumTolerance(p.shape.n_keys) + 8 * 0x1p-24;
  if (kernel == Kernel::kF32) return f32;
  // Rounded keys and queries: dk terms of relative error up to 2^-8 in all, of random sign, so a
  // score errs by four deviations of such a sum; weights and values each by 2^-8 of |v| <= 1 at the
  // most.
  const double score = 4 * 0x1p-8 * naive.magnitude / std::sqrt(static_cast<double>(p.args.dk));
  return f32 + 2 * score + 0x1p-7;
}

std::vector<Kernel> Kernels(Isa isa, const Shape& s) {
  const bool tiles = MakeKernelTable(isa).attention_bf16 != nullptr && s.mla && s.dv % 16 == 0;
  return tiles ? std::vector{Kernel::kF32, Kernel::kBf16} : std::vector{Kernel::kF32};
}

void Check(DType kv_type, const Shape& s, float q_limit = 2) {
  Problem p = Make(kv_type, s, q_limit);
  const Naive naive = Formula(p);
  for (const Isa isa : SupportedIsas()) {
    for (const Kernel kernel : Kernels(isa, s)) {
      Call(isa, kernel, p);
      const std::vector<double> tolerance(naive.out.size(), Limit(p, naive, kernel));
      EXPECT_TRUE(test::AllWithin(Compact(p), naive.out, tolerance))
          << Name(isa) << (kernel == Kernel::kBf16 ? " bf16 " : " ") << Name(kv_type)
          << (s.mla ? " MLA" : " MHA") << " n_keys " << s.n_keys << " queries " << s.n << " dk "
          << s.dk << " dv " << s.dv << " rows " << s.rows << " q " << q_limit;
      for (std::int64_t i = 0; i < s.n; ++i) {
        const float gap = p.out[static_cast<std::size_t>((i + 1) * p.args.out_stride - 1)];
        EXPECT_TRUE(std::isnan(gap)) << Name(isa) << " wrote past query " << i;
      }
    }
  }
}

constexpr DType kScalars[] = {DType::kF32, DType::kBF16, DType::kF16};

TEST(Attention, MlaIsRightForAnyNumberOfKeys) {
  for (const DType type : kScalars) {
    for (const std::int64_t n_keys : {1, 2, 63, 64, 65, 128, 200}) {
      Check(type, {true, 16, 576, 512, n_keys});
      Check(type, {true, 3, 40, 32, n_keys});
      Check(type, {true, 11, 37, 21, n_keys});
    }
  }
}

TEST(Attention, ManyKeys) {
  Check(DType::kBF16, {true, 2, 96, 64, 1000});
  Check(DType::kF16, {true, 16, 96, 64, 4097});
}

TEST(Attention, ManyHeads) { Check(DType::kF16, {true, 128, 96, 64, 65}); }

TEST(Attention, EightBitRows) {
  for (const std::int64_t n_keys : {1, 64, 130}) {
    Check(DType::kQ8_0, {true, 16, 576, 512, n_keys});
    Check(DType::kQ8_0, {true, 5, 64, 48, n_keys});
    Check(DType::kF8E4M3, {true, 16, 576, 512, n_keys});
    Check(DType::kF8E4M3, {true, 5, 144, 128, n_keys});
  }
}

// Rows of one sequence: each sees the keys up to its own.
TEST(Attention, RowsAtConsecutivePositionsAreCausal) {
  for (const DType type : kScalars) {
    for (const std::int64_t rows : {2, 17, 64, 200}) {
      Check(type, {true, rows, 48, 32, rows, rows});
      Check(type, {true, rows, 48, 32, rows + 100, rows});
      Check(type, {true, 2 * rows, 48, 32, rows + 7, rows});
    }
  }
}

TEST(Attention, MhaIsRightForAnyNumberOfKeys) {
  for (const DType type : kScalars) {
    for (const std::int64_t n_keys : {1, 63, 64, 65, 200}) {
      Check(type, {false, 4, 128, 128, n_keys});
      Check(type, {false, 5, 24, 20, n_keys});
      Check(type, {false, 2, 192, 128, n_keys});
    }
  }
}

TEST(Attention, SurvivesHugeScores) {
  for (const DType type : kScalars) {
    for (const float q_limit : {1e3F, 1e6F}) {
      // Only exact ties could be rounded differently; the largest score takes everything else.
      Check(type, {true, 9, 64, 48, 200}, q_limit);
      Check(type, {false, 3, 64, 48, 130}, q_limit);
    }
  }
}

TEST(Attention, OverflowingExponentsDoNotMatter) {
  for (const Isa isa : SupportedIsas()) {
    const Shape s{true, 9, 32, 16, 130};
    for (const Kernel kernel : Kernels(isa, s)) {
      Problem p = Make(DType::kF32, s, 1e30F);
      Call(isa, kernel, p);
      for (const float value : Compact(p)) EXPECT_TRUE(std::fabs(value) <= 1.01F) << value;
    }
  }
}

// Splitting queries over calls, as the worker pool does, must not change a bit.
TEST(Attention, QueriesAloneGiveTheSameBits) {
  for (const Isa isa : SupportedIsas()) {
    for (const bool mla : {true, false}) {
      const Shape s{mla, 19, 72, 48, 150, mla ? 19 : 1};
      for (const Kernel kernel : Kernels(isa, s)) {
        Problem p = Make(DType::kBF16, s, 2);
        Call(isa, kernel, p);
        const std::vector<float> whole = Compact(p);
        const AttentionArgs all = p.args;
        const KernelTable table = MakeKernelTable(isa);
        for (std::int64_t i = 0; i < all.n; ++i) {
          p.args = all;
          p.args.n = 1;
          p.args.q += i * all.q_stride;
          p.args.out += i * all.out_stride;
          p.args.maximum += i;
          p.args.sum += i;
          p.args.n_keys += i;
          p.args.k_offset += i * all.k_head_stride;
          p.args.v_offset += i * all.v_head_stride;
          (kernel == Kernel::kF32 ? table.attention : table.attention_bf16)(p.args);
        }
        p.args = all;
        EXPECT_EQ(whole, Compact(p)) << Name(isa) << (mla ? " MLA" : " MHA");
      }
    }
  }
}

// Calls that carry on give what one call gives; queries that see nothing of a range are left alone.
TEST(Attention, RangesCarryOn) {
  for (const Isa isa : SupportedIsas()) {
    const Shape s{true, 40, 64, 48, 300, 200};
    for (const Kernel kernel : Kernels(isa, s)) {
      Problem p = Make(DType::kBF16, s, 2);
      Call(isa, kernel, p);
      const std::vector<float> whole = Compact(p);
      for (std::int64_t first = 0; first < 300; first += 128) {
        p.args.first_key = first;
        p.args.last_key = std::min<std::int64_t>(300, first + 128);
        p.args.carry = first > 0;
        Call(isa, kernel, p);
      }
      EXPECT_EQ(whole, Compact(p)) << Name(isa);
    }
  }
}

TEST(Attention, ARangeThatAQuerySeesNothingOfIsEmpty) {
  for (const Isa isa : SupportedIsas()) {
    const Shape s{true, 4, 64, 48, 300, 200};  // the first query sees 101 keys
    for (const Kernel kernel : Kernels(isa, s)) {
      Problem p = Make(DType::kF16, s, 2);
      p.args.first_key = 128;
      Call(isa, kernel, p);
      EXPECT_EQ(p.sum[0], 0) << Name(isa);
      EXPECT_GT(p.sum[3], 0) << Name(isa);
      for (std::int64_t c = 0; c < s.dv; ++c) EXPECT_EQ(p.out[static_cast<std::size_t>(c)], 0);
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
