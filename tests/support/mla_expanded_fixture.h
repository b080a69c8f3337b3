#pragma once

#include <memory>
#include <numeric>

#include "tests/support/mla_fixture.h"

namespace tandem::test {

inline constexpr std::int64_t kPadding = 6;  // of rows of q and out

struct ExpandedCase {
  std::int64_t T = 0, prior = 0;  // rows, and keys before the first of them
  std::int64_t H = 2, R = 512, d = 64, nope = 128, dv = 128;
  DType kv = DType::kF16;
  DType weights = DType::kBF16;
  bool joined = true;     // kv_b, else k_b and v_b
  std::int64_t room = 0;  // keys of a run; 0: all
  bool gemm = true;       // the scratch has room for the general product's input
  float size = 1.0F;      // of q
};

inline void PrintTo(const ExpandedCase& c, std::ostream* os) {
  *os << c.T << " rows after " << c.prior << " keys, " << c.H << " heads of " << c.R << " " << c.d
      << " " << c.nope << " " << c.dv << ", cache " << Name(c.kv) << ", weights " << Name(c.weights)
      << (c.joined ? " joined" : " in two") << ", room " << c.room << ", q " << c.size;
}

inline float Bf16(double v) { return Bf16ToF32(F32ToBf16(static_cast<float>(v))); }

class MlaExpandedTest : public MlaTest {
 protected:
  static std::int64_t QStride(const ExpandedCase& c) { return c.H * (c.nope + c.d) + kPadding; }
  static std::int64_t OutStride(const ExpandedCase& c) { return c.H * c.dv + kPadding; }
  static std::int64_t Keys(const ExpandedCase& c) { return c.prior + c.T; }

  // A cache whose blocks lie in any order, written by mla_append so that every type is right.
  void MakeCache(const ExpandedCase& c) {
    const std::int64_t keys = Keys(c);
    const std::int64_t width = c.R + c.d;
    const std::int64_t blocks = (keys + kBlock - 1) / kBlock;
    tables_.resize(static_cast<std::size_t>(blocks + 3));
    std::iota(tables_.begin(), tables_.end(), 0);
    std::shuffle(tables_.begin(), tables_.end(), std::mt19937(9));
    const std::vector<float> z = RandomFloats(static_cast<std::size_t>(keys * width), 1);
    const ClBuffer z_buffer = Upload(device(), z);
    const ClBuffer norm = Upload(device(), std::vector<float>(static_cast<std::size_t>(c.R), 1.0F));
    const ClBuffer turns = Angles(keys, c.d, 3);
    std::vector<int> slots;
    for (std::int64_t j = 0; j < keys; ++j) {
      slots.push_back(static_cast<int>(tables_[static_cast<std::size_t>(j / kBlock + 2)] * kBlock +
                                       j % kBlock));
    }
    const ClBuffer slot_buffer = Upload(device(), slots);
    kv_ = Upload(
        device(),
        std::vector<float>(static_cast<std::size_t>((blocks + 3) * kBlock * (c.R + c.d)), 1e30F));
    kernels().MlaAppend({Whole(z_buffer), width, Whole(norm), 1e-6F, c.R, c.d, Whole(turns),
                         kv_.get(), c.kv, Whole(slot_buffer), keys});
    ReadCache(c, slots);
  }

  // What the cache holds, in double.
  void ReadCache(const ExpandedCase& c, const std::vector<int>& slots) {
    const std::int64_t bytes = TokenBytes(c.kv, c.R, c.d);
    const auto raw = Download<std::uint8_t>(
        device(), kv_, static_cast<std::size_t>(std::ssize(tables_) * kBlock * bytes));
    latents_.clear();
    for (const int slot : slots) {
      const std::uint8_t* token = raw.data() + slot * bytes;
      for (std::int64_t i = 0; i < c.R + c.d; ++i) {
        latents_.push_back(CacheValue(c.kv, token, i, c.R));
      }
    }
  }

  ClBuffer Angles(std::int64_t rows, std::int64_t d, unsigned seed) {
    cos_sin_ = Rotations(rows, d, seed);
    return Upload(device(), cos_sin_);
  }

  void MakeWeights(const ExpandedCase& c) {
    WeightBlob blob;
    weights_ = {};
    if (c.joined) {
      k_ = v_ = MakeWeight(c.weights, c.H * (c.nope + c.dv), c.R, 4);
      weights_.kv_b = blob.Add(k_);
    } else {
      k_ = MakeWeight(c.weights, c.H * c.R, c.nope, 4);
      v_ = MakeWeight(c.weights, c.H * c.dv, c.R, 5);
      weights_.k_b = blob.Add(k_);
      weights_.v_b = blob.Add(v_);
    }
    buffer_ = blob.Upload(device());
    for (cl::Weight* w : {&weights_.kv_b, &weights_.k_b, &weights_.v_b}) {
      if (w->rows > 0) w->buffer = buffer_.get();
    }
  }
  double Uk(const ExpandedCase& c, std::int64_t h, std::int64_t n, std::int64_t r) const {
    const std::int64_t at =
        c.joined ? (h * (c.nope + c.dv) + n) * c.R + r : (h * c.R + r) * c.nope + n;
    return k_.values[static_cast<std::size_t>(at)];
  }
  double Uv(const ExpandedCase& c, std::int64_t h, std::int64_t n, std::int64_t r) const {
    const std::int64_t row = c.joined ? h * (c.nope + c.dv) + c.nope + n : h * c.dv + n;
    return v_.values[static_cast<std::size_t>(row * c.R + r)];
  }

  void Prepare(const ExpandedCase& c) {
    MakeCache(c);
    MakeWeights(c);
    q_ = RandomFloats(static_cast<std::size_t>(c.T * QStride(c)), 6, c.size);
    n_keys_.clear();
    for (std::int64_t t = 0; t < c.T; ++t) n_keys_.push_back(static_cast<int>(c.prior + t + 1));
    turns_ = Angles(c.T, c.d, 7);
    q_buffer_ = Upload(device(), q_);
    tables_buffer_ = Upload(device(), tables_);
    n_keys_buffer_ = Upload(device(), n_keys_);
  }
  // Small, so that scores of many random terms do not all but choose one key.
  static float Scale(const ExpandedCase& c) {
    return 1.0F / static_cast<float>(c.nope + c.d) / std::sqrt(static_cast<float>(c.R));
  }

  struct Result {
    std::vector<float> out, lse;
  };
  Result Run(const ExpandedCase& c, cl::Kernels& kernels, bool bf16) {
    const std::int64_t room = c.room > 0 ? c.room : (Keys(c) + kBlock - 1) / kBlock * kBlock;
    const auto zeros = [&](std::int64_t floats) {
      return Upload(device(), std::vector<float>(static_cast<std::size_t>(floats), 1e30F));
    };
    cl::MlaExpandedArgs a;
    a.latents_floats = room * cl::MlaLatentFloats(c.R, c.d) * (c.gemm ? 2 : 1);
    a.expanded_floats = room * c.H * (c.nope + c.dv);
    const ClBuffer latents = zeros(a.latents_floats);
    const ClBuffer expanded = zeros(a.expanded_floats);
    const ClBuffer out = zeros(c.T * OutStride(c));
    const ClBuffer lse = zeros(c.T * c.H);
    a.q = Whole(q_buffer_);
    a.q_stride = QStride(c);
    a.cos_sin = Whole(turns_);
    a.kv = kv_.get();
    a.kv_type = c.kv;
    a.tables = {tables_buffer_.get(), 2};
    a.n_keys = Whole(n_keys_buffer_);
    a.max_keys = Keys(c);
    a.w = weights_;
    a.T = c.T;
    a.H = c.H;
    a.R = c.R;
    a.d = c.d;
    a.nope = c.nope;
    a.dv = c.dv;
    a.scale = Scale(c);
    a.latents = Whole(latents);
    a.expanded = Whole(expanded);
    a.lse = Whole(lse);
    a.out = Whole(out);
    a.out_stride = OutStride(c);
    a.bf16 = bf16;
    kernels.MlaExpanded(a);
    return {Download<float>(device(), out, static_cast<std::size_t>(c.T * OutStride(c))),
            Download<float>(device(), lse, static_cast<std::size_t>(c.T * c.H))};
  }

  // Keys and values of one head, as sums with their sizes; `rounded` as matrix units have them.
  void Expand(const ExpandedCase& c, std::int64_t h, bool rounded) {
    keys_.assign(static_cast<std::size_t>(Keys(c) * (c.nope + c.d)), {});
    values_.assign(static_cast<std::size_t>(Keys(c) * c.dv), {});
    const auto round = [&](double v) { return rounded ? Bf16(v) : v; };
    const auto product = [&](Reference& sum, const double* latent, const auto& weight) {
      for (std::int64_t r = 0; r < c.R; ++r) sum.Add(round(latent[r]), round(weight(r)));
      if (!rounded) return;
      sum.value = Bf16(sum.value);
      sum.size = std::fabs(sum.value);
    };
    for (std::int64_t j = 0; j < Keys(c); ++j) {
      const double* latent = latents_.data() + j * (c.R + c.d);
      Reference* key = keys_.data() + j * (c.nope + c.d);
      for (std::int64_t n = 0; n < c.nope; ++n) {
        product(key[n], latent, [&](std::int64_t r) { return Uk(c, h, n, r); });
      }
      for (std::int64_t i = 0; i < c.d; ++i) {
        const double v = round(latent[c.R + i]);
        key[c.nope + i] = {v, std::fabs(v)};
      }
      for (std::int64_t n = 0; n < c.dv; ++n) {
        product(values_[static_cast<std::size_t>(j * c.dv + n)], latent,
                [&](std::int64_t r) { return Uv(c, h, n, r); });
      }
    }
  }

  std::vector<Reference> Query(const ExpandedCase& c, std::int64_t t, std::int64_t h,
                               bool rounded) const {
    const float* q = q_.data() + t * QStride(c) + h * (c.nope + c.d);
    std::vector<Reference> query(static_cast<std::size_t>(c.nope + c.d));
    for (std::int64_t i = 0; i < c.nope + c.d; ++i) {
      Reference& to = query[static_cast<std::size_t>(i)];
      if (i < c.nope) {
        to.Add(q[i], 1);
      } else {
        const std::int64_t pair = (i - c.nope) / 2 * 2;
        const float* turn = cos_sin_.data() + t * c.d + pair;
        to.Add(q[c.nope + pair], i % 2 == c.nope % 2 ? turn[0] : turn[1]);
        to.Add(q[c.nope + pair + 1], i % 2 == c.nope % 2 ? -turn[1] : turn[0]);
      }
      if (rounded) to = {Bf16(to.value), std::fabs(Bf16(to.value))};
    }
    return query;
  }

  // Of the head that Expand made. `rounding`: what probabilities and, where they lie between two
  // numbers of bf16, keys and values may lose; in epsilons.
  void See(const ExpandedCase& c, std::int64_t t, std::int64_t h, const Result& got,
           double rounding, Worst& worst) const {
    const std::vector<Reference> query = Query(c, t, h, rounding > 0);
    const std::int64_t keys = c.prior + t + 1;
    std::vector<double> p;
    double score_size = 0;
    for (std::int64_t j = 0; j < keys; ++j) {
      Reference score;
      for (std::int64_t i = 0; i < c.nope + c.d; ++i) {
        const Reference& k = keys_[static_cast<std::size_t>(j * (c.nope + c.d) + i)];
        const Reference& q = query[static_cast<std::size_t>(i)];
        score.value += q.value * k.value;
        score.size += q.size * k.size;
      }
      p.push_back(score.value * Scale(c));
      score_size = std::max(score_size, score.size * Scale(c));
    }
    const double largest = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& v : p) total += v = std::exp(v - largest);
    const double products = DotFactor(c.nope + c.d) + DotFactor(c.R);
    const double factor =
        DotFactor(keys) + DotFactor(c.R) + (2 * products + rounding / 8) * score_size;
    worst.See(got.lse[static_cast<std::size_t>(t * c.H + h)],
              {largest + std::log(total), 1 + std::fabs(largest)}, factor, t, h);
    for (std::int64_t n = 0; n < c.dv; ++n) {
      Reference want;
      for (std::int64_t j = 0; j < keys; ++j) {
        const Reference& v = values_[static_cast<std::size_t>(j * c.dv + n)];
        want.value += p[static_cast<std::size_t>(j)] / total * v.value;
        want.size += p[static_cast<std::size_t>(j)] / total * v.size;
      }
      worst.See(got.out[static_cast<std::size_t>(t * OutStride(c) + h * c.dv + n)], want,
                factor + rounding, t, h * c.dv + n);
    }
  }

  void CheckForm(const ExpandedCase& c, cl::Kernels& kernels, bool bf16, double rounding,
                 const std::string& name) {
    const Result got = Run(c, kernels, bf16);
    Worst worst;
    for (std::int64_t h = 0; h < c.H; ++h) {
      Expand(c, h, rounding > 0);
      for (std::int64_t t = 0; t < c.T; t += t < 3 || t > c.T - 4 ? 1 : 3) {
        See(c, t, h, got, rounding, worst);
      }
    }
    EXPECT_TRUE(worst.Verdict()) << name << ": " << ::testing::PrintToString(c);
    for (std::int64_t t = 0; t < c.T; ++t) {
      for (std::int64_t i = c.H * c.dv; i < OutStride(c); ++i) {
        ASSERT_EQ(got.out[static_cast<std::size_t>(t * OutStride(c) + i)], 1e30F) << "between rows";
      }
    }
  }

  void Check(const ExpandedCase& c) {
    if (CannotCompileGroups()) GTEST_SKIP() << "PoCL 5 cannot compile work-groups of 256";
    Prepare(c);
    CheckForm(c, kernels(), false, 0, "generic");
  }

  ClBuffer kv_, buffer_, turns_, q_buffer_, tables_buffer_, n_keys_buffer_;
  cl::HeadWeights weights_;
  TestWeight k_, v_;
  std::vector<int> tables_, n_keys_;
  std::vector<float> q_, cos_sin_;
  std::vector<double> latents_;
  std::vector<Reference> keys_, values_;
};

}  // namespace tandem::test
