// ctest: unit
#include "cpu_kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "tests/support/naive.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::cpu {
namespace {

using test::Matrix;
using test::Random;

// One attention problem with a paged cache; token_stride leaves a gap after each row.
struct Problem {
  AttentionArgs args;
  std::vector<float> q;
  std::vector<Matrix> blocks;
  std::vector<const void*> pointers;
  std::vector<float> out, scratch;
};

Problem Make(DType kv_type, bool mla, std::int64_t n_keys, std::int64_t heads, std::int64_t dk,
             std::int64_t dv, float q_limit) {
  Random random(static_cast<std::uint64_t>(n_keys * 1000 + heads * 10 + dk));
  Problem p;
  AttentionArgs& a = p.args;
  const std::int64_t row = (mla ? dk : heads * (dk + dv)) + 3;
  for (std::int64_t j = 0; j < n_keys; j += kKvBlockTokens) {
    p.blocks.push_back(test::RandomMatrix(random, kv_type, kKvBlockTokens, row));
  }
  for (const Matrix& block : p.blocks) p.pointers.push_back(block.data());
  a.q_head_stride = dk + 1;
  p.q = random.Uniforms(heads * a.q_head_stride, -q_limit, q_limit);
  a.out_head_stride = dv + 2;
  p.out.assign(static_cast<std::size_t>(heads * a.out_head_stride), std::nanf(""));
  p.scratch.assign(static_cast<std::size_t>(AttentionScratchFloats(heads, dv)), std::nanf(""));
  a.kv_type = kv_type;
  a.token_stride = row;
  a.k_head_stride = mla ? 0 : dk;
  a.v_offset = mla ? 0 : heads * dk;
  a.v_head_stride = mla ? 0 : dv;
  a.n_keys = n_keys;
  a.heads = heads;
  a.dk = dk;
  a.dv = dv;
  a.scale = 1.0F / std::sqrt(static_cast<float>(dk));
  return p;
}

void Call(Isa isa, Problem& p) {
  p.args.q = p.q.data();
  p.args.blocks = p.pointers.data();
  p.args.out = p.out.data();
  p.args.scratch = p.scratch.data();
  MakeKernelTable(isa).attention(p.args);
}

struct Naive {
  std::vector<double> out;
  double worst_score_error = 0;  // of f32 scores: what the softmax magnifies
};

double Score(const Problem& p, std::int64_t h, std::int64_t j, double* error) {
  const AttentionArgs& a = p.args;
  double sum = 0;
  double magnitude = 0;
  for (std::int64_t i = 0; i < a.dk; ++i) {
    const double k = p.blocks[static_cast<std::size_t>(j / kKvBlockTokens)].At(
        j % kKvBlockTokens, a.k_offset + h * a.k_head_stride + i);
    const double term = k * p.q[static_cast<std::size_t>(h * a.q_head_stride + i)] * a.scale;
    sum += term;
    magnitude += std::fabs(term);
  }
  *error = std::max(*error, magnitude * test::SumTolerance(a.dk));
  return sum;
}

Naive Formula(const Problem& p) {
  const AttentionArgs& a = p.args;
  Naive naive;
  for (std::int64_t h = 0; h < a.heads; ++h) {
    std::vector<double> weights;
    for (std::int64_t j = 0; j < a.n_keys; ++j) {
      weights.push_back(Score(p, h, j, &naive.worst_score_error));
    }
    const double maximum = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - maximum);
    for (std::int64_t c = 0; c < a.dv; ++c) {
      double value = 0;
      for (std::int64_t j = 0; j < a.n_keys; ++j) {
        value += weights[static_cast<std::size_t>(j)] / sum *
                 p.blocks[static_cast<std::size_t>(j / kKvBlockTokens)].At(
                     j % kKvBlockTokens, a.v_offset + h * a.v_head_stride + c);
      }
      naive.out.push_back(value);
    }
  }
  return naive;
}

std::vector<float> Compact(const Problem& p) {
  std::vector<float> out;
  for (std::int64_t h = 0; h < p.args.heads; ++h) {
    const auto start = p.out.begin() + h * p.args.out_head_stride;
    out.insert(out.end(), start, start + p.args.dv);
  }
  return out;
}

void Check(DType kv_type, bool mla, std::int64_t n_keys, std::int64_t heads, std::int64_t dk,
           std::int64_t dv, float q_limit = 2) {
  Problem p = Make(kv_type, mla, n_keys, heads, dk, dv, q_limit);
  const Naive naive = Formula(p);
  // |v| <= 1, so an error e in every score moves an output by at most 2e; the sum over keys adds
  // its own roundings.
  const double limit = 2 * naive.worst_score_error + test::SumTolerance(n_keys) + 8 * 0x1p-24;
  const std::vector<double> tolerance(naive.out.size(), limit);
  for (const Isa isa : SupportedIsas()) {
    Call(isa, p);
    EXPECT_TRUE(test::AllWithin(Compact(p), naive.out, tolerance))
        << Name(isa) << " " << Name(kv_type) << (mla ? " MLA" : " MHA") << " n_keys " << n_keys
        << " heads " << heads << " dk " << dk << " dv " << dv << " q " << q_limit;
    for (std::int64_t h = 0; h < heads; ++h) {
      const float gap = p.out[static_cast<std::size_t>((h + 1) * p.args.out_head_stride - 1)];
      EXPECT_TRUE(std::isnan(gap)) << Name(isa) << " wrote past head " << h;
    }
  }
}

TEST(Attention, MlaIsRightForAnyNumberOfKeys) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const std::int64_t n_keys : {1, 2, 63, 64, 65, 128, 200}) {
      Check(type, true, n_keys, 16, 576, 512);
      Check(type, true, n_keys, 3, 40, 32);
      Check(type, true, n_keys, 11, 37, 21);
    }
  }
}

TEST(Attention, MhaIsRightForAnyNumberOfKeys) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const std::int64_t n_keys : {1, 63, 64, 65, 200}) {
      Check(type, false, n_keys, 4, 128, 128);
      Check(type, false, n_keys, 5, 24, 20);
      Check(type, false, n_keys, 2, 192, 128);
    }
  }
}

TEST(Attention, SurvivesHugeScores) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const float q_limit : {1e3F, 1e6F}) {
      // Only exact ties could be rounded differently; the largest score takes everything else.
      Check(type, true, 200, 9, 64, 48, q_limit);
      Check(type, false, 130, 3, 64, 48, q_limit);
    }
  }
}

TEST(Attention, OverflowingExponentsDoNotMatter) {
  for (const Isa isa : SupportedIsas()) {
    Problem p = Make(DType::kF32, true, 130, 9, 32, 16, 1e30F);
    Call(isa, p);
    for (const float value : Compact(p)) EXPECT_TRUE(std::fabs(value) <= 1.0F) << value;
  }
}

// Splitting heads over calls, as the worker pool does, must not change a bit.
TEST(Attention, HeadsAloneGiveTheSameBits) {
  for (const Isa isa : SupportedIsas()) {
    for (const bool mla : {true, false}) {
      Problem p = Make(DType::kBF16, mla, 150, 19, 72, 40, 2);
      Call(isa, p);
      const std::vector<float> whole = Compact(p);
      std::vector<float> alone;
      const AttentionArgs all = p.args;
      for (std::int64_t h = 0; h < all.heads; ++h) {
        p.args = all;
        p.args.heads = 1;
        p.args.q += h * all.q_head_stride;
        p.args.out += h * all.out_head_stride;
        p.args.k_offset += h * all.k_head_stride;
        p.args.v_offset += h * all.v_head_stride;
        MakeKernelTable(isa).attention(p.args);
        alone.insert(alone.end(), p.args.out, p.args.out + all.dv);
      }
      EXPECT_EQ(whole, alone) << Name(isa) << (mla ? " MLA" : " MHA");
    }
  }
}

}  // namespace
}  // namespace tandem::cpu
