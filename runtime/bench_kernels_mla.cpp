// MLA in its four launches, in the shape of DeepSeek-V2 and V3.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "runtime/bench_kernels_cases.h"
#include "runtime/bench_kernels_mla_shape.h"
#include "runtime/kv_cache.h"

namespace tandem {
namespace {

// Keys before the output product: how many parts it merges.
constexpr std::int64_t kOutputKeys = 8192;

// FP8: codes of the latent part with a scale per 128, the rotated part in bf16.
std::int64_t TokenBytes(DType type) {
  constexpr std::int64_t kScaled =
      kMlaLatent / kFp8Block * static_cast<std::int64_t>(sizeof(float));
  if (type == DType::kF8E4M3) return kMlaLatent + kScaled + 2 * kMlaRope;
  return kMlaWidth * static_cast<std::int64_t>(BytesOf(type));
}

std::string Heads(std::int64_t T, std::int64_t H) {
  return fmt::format("{} row{} x {} heads", T, T == 1 ? "" : "s", H);
}

std::int64_t Splits(const BenchMemory& memory, std::int64_t T, std::int64_t H, std::int64_t keys) {
  return cl::MlaSplits(T, H, keys, memory.device().info().compute_units);
}

KernelCase AppendCase(BenchMemory& memory, std::int64_t T, DType type) {
  KernelCase c;
  c.kernel = "mla_append";
  c.shape = fmt::format("{} row{}", T, T == 1 ? "" : "s");
  c.format = Name(type);
  c.bytes =
      static_cast<double>(T) * static_cast<double>(kMlaWidth * 4 + kMlaRope * 4 + TokenBytes(type));
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    struct State {
      ClBuffer z, norm, angles, kv, slots;
    };
    std::vector<std::int32_t> slots(static_cast<std::size_t>(T));
    std::iota(slots.begin(), slots.end(), 0);
    const std::int64_t kv_floats = (T + kKvBlock) * TokenBytes(type) / 4;
    const auto s = std::make_shared<State>(
        State{memory.Values(T * kMlaWidth), memory.Values(kMlaLatent), memory.Values(T * kMlaRope),
              memory.Values(kv_floats), memory.Words(slots)});
    const cl::MlaAppendArgs a{All(s->z), kMlaWidth,      All(s->norm), 1e-6F, kMlaLatent,
                              kMlaRope,  All(s->angles), s->kv.get(),  type,  All(s->slots),
                              T};
    return InTurn([s, a, &kernels](std::size_t) { kernels.MlaAppend(a); });
  };
  return c;
}

// The next layer's W_UK and W_UV each time.
struct HeadState {
  std::vector<cl::Weight> matrices;
  ClBuffer x, lse, angles, y;

  cl::HeadWeights weights(std::size_t i) const { return {matrices[i % matrices.size()], {}, {}}; }
};

std::shared_ptr<HeadState> PrepareHeads(BenchMemory& memory, DType type, std::int64_t H) {
  auto s = std::make_shared<HeadState>();
  memory.Fill(type);
  s->matrices = memory.Matrices(type, H * kMlaHeadRows, kMlaLatent);
  return s;
}

KernelCase QueryCase(BenchMemory& memory, std::int64_t T, std::int64_t H, DType type) {
  KernelCase c;
  c.kernel = "mla_query";
  c.shape = Heads(T, H);
  c.format = Name(type);
  const std::size_t matrix = BenchMemory::MatrixBytes(type, H * kMlaHeadRows, kMlaLatent);
  c.bytes = static_cast<double>(matrix) * kMlaNope / kMlaHeadRows +
            static_cast<double>(T * H * (kMlaQuery + kMlaWidth)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(T * H * kMlaNope * kMlaLatent);
  c.left_out = memory.WhyNot(matrix, 0);
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    const auto s = PrepareHeads(memory, type, H);
    s->x = memory.Values(T * H * kMlaQuery);
    s->angles = memory.Values(T * kMlaRope);
    s->y = memory.Values(T * H * kMlaWidth);
    return InTurn([=, &kernels](std::size_t i) {
      kernels.MlaQuery({All(s->x), H * kMlaQuery, s->weights(i), All(s->angles), All(s->y), T, H,
                        kMlaLatent, kMlaRope, kMlaNope, kMlaHeadOut});
    });
  };
  return c;
}

KernelCase OutputCase(BenchMemory& memory, std::int64_t T, std::int64_t H, DType type) {
  KernelCase c;
  const std::int64_t splits = Splits(memory, T, H, kOutputKeys);
  c.kernel = "mla_output";
  c.shape = fmt::format("{}, {} part{}", Heads(T, H), splits, splits == 1 ? "" : "s");
  c.format = Name(type);
  const std::size_t matrix = BenchMemory::MatrixBytes(type, H * kMlaHeadRows, kMlaLatent);
  c.bytes = static_cast<double>(matrix) * kMlaHeadOut / kMlaHeadRows +
            static_cast<double>(T * H * (splits * (kMlaLatent + 1) + kMlaHeadOut)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(T * H * kMlaHeadOut * kMlaLatent);
  c.left_out = memory.WhyNot(matrix, 0);
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    const auto s = PrepareHeads(memory, type, H);
    s->x = memory.Values(T * H * splits * kMlaLatent);
    s->lse = memory.Values(T * H * splits);
    s->y = memory.Values(T * H * kMlaHeadOut);
    return InTurn([=, &kernels](std::size_t i) {
      kernels.MlaOutput({All(s->x), All(s->lse), splits, s->weights(i), All(s->y), H * kMlaHeadOut,
                         T, H, kMlaLatent, kMlaNope, kMlaHeadOut});
    });
  };
  return c;
}

// A step of T sequences with as many keys each.
struct Cache {
  std::int64_t T = 0, H = 0, keys = 0;
  DType type = DType::kF16;

  std::int64_t blocks() const { return T * ((keys + kKvBlock - 1) / kKvBlock); }
  std::int64_t block_bytes() const { return kKvBlock * TokenBytes(type); }
};

struct AttentionState {
  ClBuffer q, tables, starts, n_keys, parts, lse;
  std::int64_t sets = 1;
  cl::MlaAttentionArgs args;
};

void PrepareTables(const BenchMemory& memory, const Cache& cache, AttentionState& s) {
  const auto held = static_cast<std::int64_t>(memory.weight_bytes()) / cache.block_bytes();
  std::vector<std::int32_t> tables(static_cast<std::size_t>(held));
  std::iota(tables.begin(), tables.end(), 0);
  std::shuffle(tables.begin(), tables.end(), std::mt19937(1));
  std::vector<std::int32_t> starts;
  for (std::int64_t t = 0; t < cache.T; ++t) {
    starts.push_back(static_cast<std::int32_t>(t * cache.blocks() / cache.T));
  }
  s.sets = held / cache.blocks();
  s.tables = memory.Words(tables);
  s.starts = memory.Words(starts);
  s.n_keys = memory.Words(std::vector<std::int32_t>(static_cast<std::size_t>(cache.T),
                                                    static_cast<std::int32_t>(cache.keys)));
}

std::shared_ptr<AttentionState> PrepareAttention(BenchMemory& memory, const Cache& cache) {
  auto s = std::make_shared<AttentionState>();
  memory.Fill(cache.type);
  PrepareTables(memory, cache, *s);
  cl::MlaAttentionArgs& a = s->args;
  a.splits = Splits(memory, cache.T, cache.H, cache.keys);
  const std::int64_t parts = cache.T * cache.H * a.splits;
  s->q = memory.Values(cache.T * cache.H * kMlaWidth);
  s->parts = memory.Values(parts * kMlaLatent);
  s->lse = memory.Values(parts);
  a.q = All(s->q);
  a.kv = memory.weights();
  a.kv_type = cache.type;
  a.tables = All(s->tables);
  a.table_start = All(s->starts);
  a.n_keys = All(s->n_keys);
  a.max_keys = cache.keys;
  a.T = cache.T;
  a.H = cache.H;
  a.R = kMlaLatent;
  a.d = kMlaRope;
  a.scale = 0.05F;
  a.parts = All(s->parts);
  a.lse = All(s->lse);
  a.bf16 = true;
  return s;
}

KernelCase AttentionCase(BenchMemory& memory, const Cache& cache) {
  KernelCase c;
  c.kernel = "mla_attention";
  c.shape = fmt::format("{}, {} keys", Heads(cache.T, cache.H), cache.keys);
  c.format = Name(cache.type);
  const std::int64_t parts = Splits(memory, cache.T, cache.H, cache.keys) * cache.T * cache.H;
  c.bytes =
      static_cast<double>(cache.T * cache.keys * TokenBytes(cache.type)) +
      static_cast<double>(cache.T * cache.H * kMlaWidth + parts * (kMlaLatent + 1)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(cache.T * cache.H * cache.keys * (kMlaWidth + kMlaLatent));
  c.left_out = memory.WhyNot(static_cast<std::uint64_t>(cache.blocks() * cache.block_bytes()), 0);
  c.prepare = [cache, &memory](cl::Kernels& kernels) {
    const auto s = PrepareAttention(memory, cache);
    return InTurn([s, blocks = cache.blocks(), &kernels](std::size_t i) {
      s->args.tables.offset = static_cast<std::int64_t>(i) % s->sets * blocks;
      kernels.MlaAttention(s->args);
    });
  };
  return c;
}

// T rows of one sequence in the expanded form, keys and values of all heads made of the latents.
struct ExpandedState {
  std::vector<cl::Weight> matrices;
  ClBuffer q, angles, kv, tables, n_keys, latents, expanded, lse, out;
  cl::MlaExpandedArgs args;
};

// The cache: pairs of halves of either sign that are ordinary numbers in f16 and in bf16.
void PrepareExpandedRows(const BenchMemory& memory, std::int64_t T, ExpandedState& s) {
  std::mt19937 random(2);
  std::vector<std::int32_t> pairs(static_cast<std::size_t>((T + kKvBlock) * kMlaWidth / 2));
  for (std::int32_t& w : pairs) {
    w = static_cast<std::int32_t>((random() & 0x8fff8fffU) | 0x30003000U);
  }
  s.kv = memory.Words(pairs);
  std::vector<std::int32_t> words(static_cast<std::size_t>((T + kKvBlock - 1) / kKvBlock));
  std::iota(words.begin(), words.end(), 0);
  std::shuffle(words.begin(), words.end(), std::mt19937(1));
  s.tables = memory.Words(words);
  words.resize(static_cast<std::size_t>(T));
  std::iota(words.begin(), words.end(), 1);
  s.n_keys = memory.Words(words);
}

std::shared_ptr<ExpandedState> PrepareExpanded(BenchMemory& memory, std::int64_t T, std::int64_t H,
                                               DType weights) {
  auto s = std::make_shared<ExpandedState>();
  memory.Fill(weights);
  s->matrices = memory.Matrices(weights, H * kMlaHeadRows, kMlaLatent);
  PrepareExpandedRows(memory, T, *s);
  cl::MlaExpandedArgs& a = s->args;
  a.latents_floats = (T + kKvBlock) * 2 * cl::MlaLatentFloats(kMlaLatent, kMlaRope);
  a.expanded_floats = (T + kKvBlock) * H * kMlaHeadRows;
  s->q = memory.Values(T * H * kMlaQuery);
  s->angles = memory.Values(T * kMlaRope);
  s->latents = memory.Values(a.latents_floats);
  s->expanded = memory.Values(a.expanded_floats);
  s->lse = memory.Values(T * H);
  s->out = memory.Values(T * H * kMlaHeadOut);
  a.q = All(s->q);
  a.q_stride = H * kMlaQuery;
  a.cos_sin = All(s->angles);
  a.kv = s->kv.get();
  a.kv_type = DType::kF16;
  a.tables = All(s->tables);
  a.n_keys = All(s->n_keys);
  a.max_keys = a.T = T;
  a.H = H;
  a.R = kMlaLatent;
  a.d = kMlaRope;
  a.nope = kMlaNope;
  a.dv = kMlaHeadOut;
  a.scale = 0.05F;
  a.latents = All(s->latents);
  a.expanded = All(s->expanded);
  a.lse = All(s->lse);
  a.out = All(s->out);
  a.out_stride = H * kMlaHeadOut;
  a.bf16 = true;
  return s;
}

KernelCase ExpandedCase(BenchMemory& memory, std::int64_t T, std::int64_t H, DType weights) {
  KernelCase c;
  c.kernel = "mla_expanded";
  c.shape = fmt::format("{}, as many keys", Heads(T, H));
  c.format = Name(weights);
  const std::size_t matrix = BenchMemory::MatrixBytes(weights, H * kMlaHeadRows, kMlaLatent);
  c.bytes = static_cast<double>(matrix) + static_cast<double>(T * TokenBytes(DType::kF16)) +
            static_cast<double>(T * H * (kMlaQuery + kMlaHeadOut)) * sizeof(float);
  c.flops = 2.0 * static_cast<double>(T * H * kMlaHeadRows * kMlaLatent) +
            static_cast<double>(H * (kMlaQuery + kMlaHeadOut)) * static_cast<double>(T * (T + 1));
  const std::int64_t values = (T + kKvBlock) * H * kMlaHeadRows;
  c.left_out = memory.WhyNot(matrix, static_cast<std::uint64_t>(values) * sizeof(float));
  c.prepare = [=, &memory](cl::Kernels& kernels) {
    const auto s = PrepareExpanded(memory, T, H, weights);
    return InTurn([s, &kernels](std::size_t i) {
      s->args.w.kv_b = s->matrices[i % s->matrices.size()];
      kernels.MlaExpanded(s->args);
    });
  };
  return c;
}

}  // namespace

std::vector<KernelCase> MlaCases(const KernelGrid& grid, BenchMemory& memory) {
  std::vector<KernelCase> cases;
  for (const DType type : grid.kv_types) {
    for (const std::int64_t T : grid.tokens) cases.push_back(AppendCase(memory, T, type));
  }
  for (const DType type : grid.head_formats) {
    for (const std::int64_t H : grid.heads) {
      for (const std::int64_t T : grid.sequences) {
        cases.push_back(QueryCase(memory, T, H, type));
        cases.push_back(OutputCase(memory, T, H, type));
      }
    }
  }
  for (const DType type : grid.head_formats) {
    for (const std::int64_t H : grid.heads) {
      cases.push_back(MlaRowCase(memory, H, type));
    }
  }
  for (const DType type : grid.kv_types) {
    for (const std::int64_t H : grid.heads) {
      for (const std::int64_t T : grid.sequences) {
        for (const std::int64_t keys : grid.keys) {
          cases.push_back(AttentionCase(memory, {T, H, keys, type}));
        }
      }
    }
  }
  for (const DType type : grid.head_formats) {
    for (const std::int64_t H : grid.heads) {
      cases.push_back(ExpandedCase(memory, grid.prefill_rows.back(), H, type));
    }
  }
  return cases;
}

}  // namespace tandem
