#pragma once

#include <numeric>

#include "tests/support/mla_fixture.h"

// Attention in the latent space over keys in pages, against the same in double.
namespace tandem::test {

struct AttentionCase {
  std::int64_t H, R, d;
  std::vector<int> keys;  // of each row
  std::int64_t splits = 1;
  DType type = DType::kF32;
  float q_size = 1.0F;
  std::vector<int> sequence = {};  // of each row; empty: every row its own
  std::int64_t before = 0;         // runs of other launches for the same rows
  std::int64_t behind = 0;
  std::int64_t q_at = 0;  // where q begins in its buffer
};

struct AttentionResult {
  std::vector<float> parts, lse;
};

class MlaAttentionTest : public MlaTest {
 protected:
  void SetUp() override {
    MlaTest::SetUp();
    if (!IsSkipped() && CannotCompileGroups()) {
      GTEST_SKIP() << "the compiler of PoCL 5 fails an assertion on the work-group kernel";
    }
  }

  // Blocks of all sequences in shuffled order, as after many allocations.
  void Prepare(const AttentionCase& c) {
    bytes_ = TokenBytes(c.type, c.R, c.d);
    run_ = (BlocksFor(*std::max_element(c.keys.begin(), c.keys.end())) + c.splits - 1) / c.splits *
           kBlock;
    table_start_.clear();
    std::vector<int> start_of;
    int blocks = 0;
    for (std::size_t t = 0; t < c.keys.size(); ++t) {
      const std::size_t sequence =
          static_cast<std::size_t>(c.sequence.empty() ? static_cast<int>(t) : c.sequence[t]);
      if (sequence >= start_of.size()) {
        start_of.push_back(blocks);
        blocks += BlocksFor(MostKeys(c, static_cast<int>(sequence), t));
      }
      table_start_.push_back(start_of[sequence]);
    }
    tables_.resize(static_cast<std::size_t>(blocks));
    std::iota(tables_.begin(), tables_.end(), 0);
    std::shuffle(tables_.begin(), tables_.end(), std::mt19937(5));
    q_ = RandomFloats(c.keys.size() * static_cast<std::size_t>(c.H * (c.R + c.d)), 6, c.q_size);
    FillCache(c, blocks);
  }
  static int BlocksFor(int keys) { return static_cast<int>((keys + kBlock - 1) / kBlock); }
  static int MostKeys(const AttentionCase& c, int sequence, std::size_t row) {
    if (c.sequence.empty()) return c.keys[row];
    int most = 0;
    for (std::size_t t = 0; t < c.keys.size(); ++t) {
      if (c.sequence[t] == sequence) most = std::max(most, c.keys[t]);
    }
    return most;
  }

  void FillCache(const AttentionCase& c, int blocks) {
    const std::int64_t tokens = blocks * kBlock;
    const std::vector<float> x = RandomFloats(static_cast<std::size_t>(tokens * (c.R + c.d)), 7);
    kv_.assign(static_cast<std::size_t>(tokens * bytes_), 0);
    values_.resize(x.size());
    for (std::int64_t token = 0; token < tokens; ++token) {
      std::uint8_t* row = kv_.data() + token * bytes_;
      for (std::int64_t i = 0; i < c.R + c.d; ++i) {
        EncodeValue(c, row, i, x[static_cast<std::size_t>(token * (c.R + c.d) + i)]);
      }
      for (std::int64_t i = 0; i < c.R + c.d; ++i) {
        values_[static_cast<std::size_t>(token * (c.R + c.d) + i)] =
            CacheValue(c.type, row, i, c.R);
      }
    }
  }
  static void EncodeValue(const AttentionCase& c, std::uint8_t* row, std::int64_t i, float value) {
    if (c.type != DType::kF8E4M3) {
      EncodeWeight(c.type, value, row + i * static_cast<std::int64_t>(BytesOf(c.type)));
    } else if (i >= c.R) {
      EncodeWeight(DType::kBF16, value, row + c.R + c.R / 32 + 2 * (i - c.R));
    } else {
      const float scale = 1.0F / 448 * (1.0F + 0.1F * static_cast<float>(i / 128));
      std::memcpy(row + c.R + i / 128 * 4, &scale, 4);
      row[i] = F32ToE4M3(value / scale);
    }
  }

  // Rows [first, first + T).
  AttentionResult Run(const AttentionCase& c, cl::Kernels& with, std::int64_t first, std::int64_t T,
                      bool bf16 = false) {
    std::vector<float> moved(static_cast<std::size_t>(c.q_at));
    moved.insert(moved.end(), q_.begin(), q_.end());
    const ClBuffer q = Upload(device(), moved);
    const ClBuffer kv = Upload(device(), kv_);
    const ClBuffer tables = Upload(device(), tables_);
    const ClBuffer starts = Upload(device(), table_start_);
    const ClBuffer keys = Upload(device(), c.keys);
    const std::int64_t row = c.splits + c.before + c.behind;
    const std::size_t count = static_cast<std::size_t>(T * c.H * row);
    const std::size_t R = static_cast<std::size_t>(c.R);
    const ClBuffer parts = Upload(device(), std::vector<float>(count * R, 1e30F));
    const ClBuffer lse = Upload(device(), std::vector<float>(count, 1e30F));
    cl::MlaAttentionArgs a;
    a.q = {q.get(), c.q_at + first * c.H * (c.R + c.d)};
    a.kv = kv.get();
    a.kv_type = c.type;
    a.tables = Whole(tables);
    a.table_start = {starts.get(), first};
    a.n_keys = {keys.get(), first};
    a.max_keys = run_ * c.splits;
    a.T = T;
    a.H = c.H;
    a.R = c.R;
    a.d = c.d;
    a.scale = Scale(c);
    a.splits = c.splits;
    a.row_splits = row;
    a.parts = {parts.get(), c.before * c.R};
    a.lse = {lse.get(), c.before};
    a.bf16 = bf16;
    with.MlaAttention(a);
    return {Own(c, Download<float>(device(), parts, count * R), c.R),
            Own(c, Download<float>(device(), lse, count), 1)};
  }
  // This launch's runs of every row; those of others must be as they were.
  static std::vector<float> Own(const AttentionCase& c, const std::vector<float>& all,
                                std::int64_t width) {
    std::vector<float> own;
    const std::int64_t row = (c.splits + c.before + c.behind) * width;
    for (std::int64_t i = 0; i < std::ssize(all); ++i) {
      const std::int64_t at = i % row - c.before * width;
      const bool mine = at >= 0 && at < c.splits * width;
      if (mine) own.push_back(all[static_cast<std::size_t>(i)]);
      EXPECT_TRUE(mine || all[static_cast<std::size_t>(i)] == 1e30F) << "value " << i;
    }
    return own;
  }
  static float Scale(const AttentionCase& c) {
    return 1.0F / std::sqrt(static_cast<float>(c.R + c.d));
  }

  const double* Token(const AttentionCase& c, std::int64_t t, std::int64_t j) const {
    const std::int64_t entry = table_start_[static_cast<std::size_t>(t)] + j / kBlock;
    const std::int64_t slot = tables_[static_cast<std::size_t>(entry)] * kBlock + j % kBlock;
    return values_.data() + slot * (c.R + c.d);
  }

  // One row, head and run against double. `rounding` is what a probability may lose; it is counted
  // in epsilons.
  void See(const AttentionCase& c, std::int64_t t, std::int64_t h, std::int64_t s,
           const AttentionResult& got, Worst& worst, double rounding = 0) const {
    const std::int64_t part = (t * c.H + h) * c.splits + s;
    const float* out = got.parts.data() + part * c.R;
    const float lse = got.lse[static_cast<std::size_t>(part)];
    const std::int64_t first = s * run_;
    const std::int64_t last =
        std::min<std::int64_t>(first + run_, c.keys[static_cast<std::size_t>(t)]);
    if (first >= last) {
      EXPECT_EQ(lse, -std::numeric_limits<float>::infinity());
      for (std::int64_t r = 0; r < c.R; ++r) ASSERT_EQ(out[r], 0.0F);
      return;
    }
    const float* q = q_.data() + (t * c.H + h) * (c.R + c.d);
    std::vector<double> p;
    double score_size = 0;  // of the dot product, whose errors the softmax multiplies
    for (std::int64_t j = first; j < last; ++j) {
      Reference score;
      for (std::int64_t i = 0; i < c.R + c.d; ++i) score.Add(q[i], Token(c, t, j)[i]);
      p.push_back(score.value * Scale(c));
      score_size = std::max(score_size, score.size * Scale(c));
    }
    const double largest = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& v : p) total += v = std::exp(v - largest);
    const double factor = DotFactor(last - first) + DotFactor(c.R) * score_size;
    worst.See(lse, {largest + std::log(total), 1 + std::fabs(largest)}, factor, t, h);
    for (std::int64_t r = 0; r < c.R; ++r) {
      Reference want;
      for (std::int64_t j = first; j < last; ++j) {
        want.Add(p[static_cast<std::size_t>(j - first)] / total, Token(c, t, j)[r]);
      }
      worst.See(out[r], want, factor + rounding, t, h);
    }
  }

  void Check(const AttentionCase& c) {
    Prepare(c);
    CheckGeneric(c);
  }
  void CheckGeneric(const AttentionCase& c) {
    const AttentionResult got = Run(c, kernels(), 0, std::ssize(c.keys));
    Worst worst;
    for (std::int64_t t = 0; t < std::ssize(c.keys); ++t) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        for (std::int64_t s = 0; s < c.splits; ++s) See(c, t, h, s, got, worst);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "H " << c.H << " R " << c.R << " d " << c.d << " splits "
                                 << c.splits << " " << Name(c.type);
  }

  std::int64_t bytes_ = 0, run_ = 0;
  std::vector<int> tables_, table_start_;
  std::vector<float> q_;
  std::vector<std::uint8_t> kv_;
  std::vector<double> values_;
};

// The form for matrix units against the same sums in double over what it rounds: q to the operands'
// type, f8 to bf16. Rounding the probabilities is all that the tolerance adds.
class MlaMmaTest : public MlaAttentionTest {
 protected:
  void SetUp() override {
    MlaAttentionTest::SetUp();
    if (IsSkipped()) return;
    if (!MakeForms()) GTEST_SKIP() << device().info().name << " has no mma.sync on e4m3";
  }
  bool MakeForms() {
    cl::DeviceTraits traits = cl::TraitsOf(device());
    if (traits.nv_compute < 89) return false;
    native_ = std::make_unique<cl::Kernels>(device(), "", traits);
    if (traits.nv_compute != 90) return true;
    traits.nv_compute = 89;
    without_wgmma_ = std::make_unique<cl::Kernels>(device(), "", traits);
    return true;
  }
  static float Round(DType type, float value) {
    return type == DType::kF16 ? F16ToF32(F32ToF16(value)) : Bf16ToF32(F32ToBf16(value));
  }
  void CheckMma(const AttentionCase& c) {
    Prepare(c);
    CheckForms(c);
  }
  void CheckForms(const AttentionCase& c) {
    for (float& v : q_) v = Round(c.type, v);
    for (double& v : values_) v = Round(c.type, static_cast<float>(v));
    CheckForm(c, *native_);
    if (without_wgmma_) CheckForm(c, *without_wgmma_);
  }
  void CheckForm(const AttentionCase& c, cl::Kernels& form) {
    const AttentionResult got = Run(c, form, 0, std::ssize(c.keys), true);
    const double rounding = (c.type == DType::kF16 ? 0x1p-11 : 0x1p-8) /
                            static_cast<double>(std::numeric_limits<float>::epsilon());
    Worst worst;
    for (std::int64_t t = 0; t < std::ssize(c.keys); ++t) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        for (std::int64_t s = 0; s < c.splits; ++s) See(c, t, h, s, got, worst, rounding);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << "H " << c.H << " splits " << c.splits << " " << Name(c.type);
    CheckAlone(c, form, got);
  }
  // The last row by itself, bit for bit.
  void CheckAlone(const AttentionCase& c, cl::Kernels& form, const AttentionResult& all) {
    if (c.H % 64 != 0 && std::ssize(c.keys) * c.H >= 1024) return;  // alone it has another form
    const AttentionResult last = Run(c, form, std::ssize(c.keys) - 1, 1, true);
    const std::size_t offset = all.parts.size() - last.parts.size();
    for (std::size_t i = 0; i < last.parts.size(); ++i) {
      ASSERT_EQ(last.parts[i], all.parts[offset + i]) << i;
    }
  }
  std::unique_ptr<cl::Kernels> native_, without_wgmma_;
};

inline constexpr DType kMmaTypes[] = {DType::kF16, DType::kBF16, DType::kF8E4M3};

}  // namespace tandem::test
