#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cl_kernels/device_traits.h"
#include "runtime/kv_cache.h"
#include "runtime/self_test_cases.h"

namespace tandem {
namespace {

// Keys that the cache rounds: relative to their size, squared, on average, and somewhat more.
double KvBound(DType type) {
  switch (type) {
    case DType::kF32:
      return kFloatBound;
    case DType::kF16:
      return 1e-6;
    case DType::kF8E4M3:
      return 5e-3;  // steps of 2^-3
    default:
      return kBf16Bound;
  }
}

// Positions in a cache: token j lies in slot tables[j / 64] * 64 + j % 64, blocks in falling order.
struct TestCache {
  explicit TestCache(std::int64_t tokens) {
    const std::int64_t blocks = (tokens + kKvBlock - 1) / kKvBlock;
    for (std::int64_t b = blocks - 1; b >= 0; --b) tables.push_back(static_cast<std::int32_t>(b));
    for (std::int64_t j = 0; j < tokens; ++j) {
      slots.push_back(
          static_cast<std::int32_t>(tables[Size(j / kKvBlock)] * kKvBlock + j % kKvBlock));
    }
  }
  std::int64_t room() const { return std::ssize(tables) * kKvBlock; }
  std::vector<std::int32_t> tables, slots;
};

// Row t sees so many keys; the last one all of them.
std::vector<std::int32_t> KeysOf(std::int64_t T, std::int64_t tokens) {
  std::vector<std::int32_t> n_keys;
  for (std::int64_t t = 0; t < T; ++t) {
    n_keys.push_back(static_cast<std::int32_t>(tokens - (T - 1 - t)));
  }
  return n_keys;
}

Doubles Softmax(Doubles scores) {
  const double largest = *std::ranges::max_element(scores);
  for (double& s : scores) s = std::exp(s - largest);
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& s : scores) s /= sum;
  return scores;
}

Floats Rotations(const Floats& angles) {
  Floats cos_sin;
  for (const float angle : angles) {
    cos_sin.push_back(std::cos(angle));
    cos_sin.push_back(std::sin(angle));
  }
  return cos_sin;
}

// d values, in pairs, turned by cos_sin [d / 2, 2].
void Rotate(const float* x, const float* cos_sin, std::int64_t d, double* y) {
  for (std::int64_t i = 0; i < d; i += 2) {
    const double c = cos_sin[i];
    const double s = cos_sin[i + 1];
    y[i] = x[i] * c - x[i + 1] * s;
    y[i + 1] = x[i] * s + x[i + 1] * c;
  }
}

}  // namespace

struct SelfTestCases::MlaShape {
  std::int64_t T, H;
  // V3's, for which the forms with matrix units are made.
  std::int64_t R = 512, d = 64, nope = 128, dv = 128;
  std::int64_t tokens = 130;  // three blocks
  bool expanded = false;
  bool one_row = false;  // in one launch, where there is a form for it

  std::int64_t latent() const { return R + d; }
  std::int64_t head_rows() const { return nope + dv; }
};

struct SelfTestCases::MlaRun {
  TestMatrix w;  // kv_b
  Floats q, z, norm, turns;
};

SelfTestCases::MlaRun SelfTestCases::MakeMla(const MlaShape& s, DType format) {
  MlaRun run;
  run.w = MakeMatrix(format, s.H * s.head_rows(), s.R);
  run.q = Random(s.T * s.H * (s.nope + s.d), 0.25F);  // scores about 1: no key takes it all
  run.z = Random(s.tokens * s.latent());
  run.norm = Random(s.R);
  run.turns = Rotations(Random(s.tokens * s.d / 2, 3));
  return run;
}

// The expanded form of the same rows, a block of keys at a time.
Floats SelfTestCases::RunExpanded(const MlaShape& s, const cl::MlaQueryArgs& query,
                                  const cl::MlaAttentionArgs& attention) {
  constexpr std::int64_t kKeys = 64;  // of a run
  cl::MlaExpandedArgs a;
  a.latents_floats = kKeys * cl::MlaLatentFloats(s.R, s.d) * 2;
  a.expanded_floats = kKeys * s.H * s.head_rows();
  const ClBuffer latents = Results(a.latents_floats), expanded = Results(a.expanded_floats);
  const ClBuffer lse = Results(s.T * s.H), out = Results(s.T * s.H * s.dv);
  a.q = query.q;
  a.q_stride = query.q_stride;
  a.cos_sin = query.cos_sin;
  a.kv = attention.kv;
  a.kv_type = attention.kv_type;
  a.tables = attention.tables;
  a.n_keys = attention.n_keys;
  a.max_keys = s.tokens;
  a.w = query.w;
  a.T = s.T;
  a.H = s.H;
  a.R = s.R;
  a.d = s.d;
  a.nope = s.nope;
  a.dv = s.dv;
  a.scale = attention.scale;
  a.latents = {latents.get(), 0};
  a.expanded = {expanded.get(), 0};
  a.lse = {lse.get(), 0};
  a.out = {out.get(), 0};
  a.out_stride = s.H * s.dv;
  a.bf16 = attention.bf16;
  kernels_.MlaExpanded(a);
  return Download(out, s.T * s.H * s.dv);
}

// Four launches: into the cache, the query into the latent space, attention in two runs of keys,
// and out of the latent space. Row t is at the position of the last key that it sees.
Floats SelfTestCases::RunMla(const MlaShape& s, const MlaRun& run, DType kv_type, bool bf16) {
  const TestCache cache(s.tokens);
  const std::vector<std::int32_t> n_keys = KeysOf(s.T, s.tokens);
  const std::vector<std::int32_t> starts(Size(s.T), 0);
  const ClBuffer z = Upload(run.z), norm = Upload(run.norm), turns = Upload(run.turns);
  const ClBuffer slots = Upload(cache.slots), q = Upload(run.q);
  std::vector<std::int32_t> words = starts;  // as in a step's batch, in one buffer
  words.insert(words.end(), n_keys.begin(), n_keys.end());
  words.insert(words.end(), cache.tables.begin(), cache.tables.end());
  const ClBuffer batch = Upload(words);
  const ClBuffer kv = device().Allocate(Size(cache.room() * s.latent()) * sizeof(float));
  constexpr std::int64_t kSplits = 2;
  const ClBuffer absorbed = Results(s.T * s.H * s.latent());
  constexpr std::int64_t kRoom = std::max(kSplits, cl::kMlaOneRowSplits);
  const ClBuffer parts = Results(s.T * s.H * kRoom * s.R), lse = Results(s.T * s.H * kRoom);
  const ClBuffer out = Results(s.T * s.H * s.dv);
  kernels_.MlaAppend({{z.get(), 0},
                      s.latent(),
                      {norm.get(), 0},
                      1e-6F,
                      s.R,
                      s.d,
                      {turns.get(), 0},
                      kv.get(),
                      kv_type,
                      {slots.get(), 0},
                      s.tokens});
  const cl::HeadWeights heads{run.w.weight, {}, {}};
  cl::MlaQueryArgs query;
  query.q = {q.get(), 0};
  query.q_stride = s.H * (s.nope + s.d);
  query.w = heads;
  query.cos_sin = {turns.get(), (s.tokens - s.T) * s.d};
  query.y = {absorbed.get(), 0};
  query.T = s.T;
  query.H = s.H;
  query.R = s.R;
  query.d = s.d;
  query.nope = s.nope;
  query.dv = s.dv;
  query.bf16 = bf16;
  cl::MlaAttentionArgs a;
  a.q = query.y;
  a.kv = kv.get();
  a.kv_type = kv_type;
  a.table_start = {batch.get(), 0};
  a.n_keys = {batch.get(), s.T};
  a.tables = {batch.get(), 2 * s.T};
  a.max_keys = s.tokens;
  a.T = s.T;
  a.H = s.H;
  a.R = s.R;
  a.d = s.d;
  a.scale = 1 / std::sqrt(static_cast<float>(s.nope + s.d));
  a.splits = kSplits;
  a.parts = {parts.get(), 0};
  a.lse = {lse.get(), 0};
  a.bf16 = bf16;
  if (s.expanded) return RunExpanded(s, query, a);
  cl::MlaOutputArgs o;
  o.parts = a.parts;
  o.lse = a.lse;
  o.splits = kSplits;
  o.w = heads;
  o.out = {out.get(), 0};
  o.out_stride = s.H * s.dv;
  o.T = s.T;
  o.H = s.H;
  o.R = s.R;
  o.nope = s.nope;
  o.dv = s.dv;
  o.bf16 = bf16;
  if (!s.one_row || !kernels_.MlaOneRow(query, a, o)) {
    kernels_.MlaQuery(query);
    kernels_.MlaAttention(a);
    kernels_.MlaOutput(o);
  }
  return Download(out, s.T * s.H * s.dv);
}

namespace {

// Latents and rotated keys as the cache should have them, [tokens, R + d].
Doubles MlaKeys(std::int64_t tokens, std::int64_t R, std::int64_t d, const Floats& z,
                const Floats& norm, const Floats& turns) {
  Doubles keys(z.size());
  for (std::int64_t j = 0; j < tokens; ++j) {
    const float* from = z.data() + j * (R + d);
    double* to = keys.data() + j * (R + d);
    const double squares = std::inner_product(from, from + R, from, 0.0);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(R) + 1e-6);
    for (std::int64_t r = 0; r < R; ++r) to[r] = norm[Size(r)] * scale * from[r];
    Rotate(from + R, turns.data() + j * d, d, to + R);
  }
  return keys;
}

}  // namespace

void SelfTestCases::MlaOf(const MlaShape& s, DType kv_type, DType format, bool bf16) {
  const MlaRun run = MakeMla(s, format);
  const Floats got = RunMla(s, run, kv_type, bf16);
  const Doubles keys = MlaKeys(s.tokens, s.R, s.d, run.z, run.norm, run.turns);
  const double scale = 1 / std::sqrt(static_cast<double>(s.nope + s.d));
  Doubles want;
  for (std::int64_t row = 0; row < s.T * s.H; ++row) {
    const std::int64_t n = s.tokens - (s.T - 1 - row / s.H);
    const double* w = run.w.values.data() + row % s.H * s.head_rows() * s.R;
    const float* q = run.q.data() + row * (s.nope + s.d);
    Doubles absorbed(Size(s.latent()));
    for (std::int64_t i = 0; i < s.nope; ++i) {
      for (std::int64_t r = 0; r < s.R; ++r) absorbed[Size(r)] += q[i] * w[i * s.R + r];
    }
    Rotate(q + s.nope, run.turns.data() + (n - 1) * s.d, s.d, absorbed.data() + s.R);
    Doubles scores;
    for (std::int64_t j = 0; j < n; ++j) {
      scores.push_back(scale * std::inner_product(absorbed.begin(), absorbed.end(),
                                                  keys.begin() + j * s.latent(), 0.0));
    }
    const Doubles p = Softmax(std::move(scores));
    Doubles u(Size(s.R));
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t r = 0; r < s.R; ++r)
        u[Size(r)] += p[Size(j)] * keys[Size(j * s.latent() + r)];
    }
    for (std::int64_t i = 0; i < s.dv; ++i) {
      want.push_back(std::inner_product(u.begin(), u.end(), w + (s.nope + i) * s.R, 0.0));
    }
  }
  const bool rounds = bf16 && kernels_.traits().nv_compute >= 80;
  Add("MLA",
      fmt::format("{} rows, {} heads, KV {}{}", s.T, s.H, Name(kv_type),
                  s.expanded  ? ", expanded"
                  : s.one_row ? ", one launch"
                              : ""),
      format, std::max(KvBound(kv_type), rounds ? 4 * kBf16Bound : 0), want, got);
}

// Few and many rows, few and many heads, in one format of weights; every other format once.
void SelfTestCases::Mla(DType kv_type, const std::vector<DType>& formats, bool bf16) {
  for (const MlaShape& shape :
       {MlaShape{3, 4}, MlaShape{1, 64, 512, 64, 16, 16}, MlaShape{33, 2}}) {
    MlaOf(shape, kv_type, formats.front(), bf16);
  }
  if (bf16) {  // many rows of prefill
    MlaShape shape{70, 2};
    shape.expanded = true;
    MlaOf(shape, kv_type, formats.front(), bf16);
  }
  for (const DType format : formats) {
    if (format != formats.front()) MlaOf({1, 4}, kv_type, format, bf16);
    MlaShape one{1, 4};
    one.one_row = true;
    if (bf16 && kernels_.traits().mla_one_row_keys > 0) MlaOf(one, kv_type, format, bf16);
  }
}

// Two heads, each with keys and values of its own; then the same with the last block's keys in a
// launch of their own, of which the first row has none.
void SelfTestCases::Heads(DType kv_type) {
  constexpr std::int64_t T = 3, H = 2, dk = 48, dv = 32, kTokens = 130, kWidth = H * (dk + dv);
  const TestCache cache(kTokens);
  const Floats q = Random(T * H * dk), x = Random(kTokens * kWidth);
  const std::vector<std::int32_t> n_keys = KeysOf(T, kTokens);
  const ClBuffer dq = Upload(q), dx = Upload(x), slots = Upload(cache.slots);
  const ClBuffer tables = Upload(cache.tables), keys = Upload(n_keys), out = Results(T * H * dv);
  const ClBuffer start = Upload(std::vector<std::int32_t>{0, 0, 0, 2, 2, 2});
  const ClBuffer keys_apart = Upload(std::vector<std::int32_t>{128, 128, 128, 0, 1, 2});
  const ClBuffer joined = Results(T * H * dv), lse = Results(T * H);
  const ClBuffer kv = device().Allocate(Size(cache.room() * kWidth) * sizeof(float));
  kernels_.KvAppend({{dx.get(), 0}, kWidth, kv.get(), kv_type, kWidth, {slots.get(), 0}, kTokens});
  cl::AttentionArgs a;
  a.q = {dq.get(), 0};
  a.q_row_stride = H * dk;
  a.q_head_stride = dk;
  a.kv = kv.get();
  a.kv_type = kv_type;
  a.width = kWidth;
  a.k_head_stride = dk;
  a.v_offset = H * dk;
  a.v_head_stride = dv;
  a.tables = {tables.get(), 0};
  a.table_start = {start.get(), 0};
  a.n_keys = {keys.get(), 0};
  a.out = {out.get(), 0};
  a.out_row_stride = H * dv;
  a.out_head_stride = dv;
  a.T = T;
  a.heads = H;
  a.dk = dk;
  a.dv = dv;
  a.scale = 0.5F;
  kernels_.Attention(a);
  a.out = {joined.get(), 0};
  a.lse = {lse.get(), 0};
  for (const bool first : {true, false}) {
    a.share = first ? cl::AttentionShare::kFirst : cl::AttentionShare::kNext;
    a.table_start = {start.get(), first ? 0 : T};
    a.n_keys = {keys_apart.get(), first ? 0 : T};
    kernels_.Attention(a);
  }
  Doubles want;
  for (std::int64_t row = 0; row < T * H; ++row) {
    const std::int64_t h = row % H;
    Doubles scores;
    for (std::int64_t j = 0; j < n_keys[Size(row / H)]; ++j) {
      const float* key = x.data() + j * kWidth + h * dk;
      scores.push_back(0.5 * std::inner_product(key, key + dk, q.data() + row * dk, 0.0));
    }
    const Doubles p = Softmax(std::move(scores));
    for (std::int64_t i = 0; i < dv; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < p.size(); ++j) {
        sum += p[j] * x[j * kWidth + Size(H * dk + h * dv + i)];
      }
      want.push_back(sum);
    }
  }
  Add("attention", "3 rows, 2 heads", kv_type, KvBound(kv_type), want, Download(out, T * H * dv));
  Add("attention", "3 rows, 2 heads, keys in two launches", kv_type, KvBound(kv_type), want,
      Download(joined, T * H * dv));
}

}  // namespace tandem
