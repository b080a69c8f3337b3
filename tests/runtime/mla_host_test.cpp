// ctest: unit
// MLA on the host in all its forms against the expanded form of the paper in double.
#include "runtime/mla_host.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "cpu_kernels/panel.h"
#include "memory/blocks.h"
#include "model/quantize.h"
#include "placement/machine.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace tandem::test {
namespace {

struct LayerSetup {
  Precision precision = Precision::kExact;
  DType kv_type = DType::kF32;
  DType weights = DType::kF32;
  bool split = false;  // k_b and v_b
  int threads = 2;
  int nodes = 1;
  std::int64_t heads = 4;
};

Config TinyConfig(std::int64_t heads) {
  Config c;
  c.hidden_size = c.moe_intermediate_size = 64;
  c.num_hidden_layers = 1;
  c.num_attention_heads = c.num_key_value_heads = heads;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = c.v_head_dim = c.qk_rope_head_dim = 32;
  c.n_routed_experts = c.num_experts_per_tok = 1;
  return c;
}

Plan TinyPlan(const LayerSetup& s) {
  Plan plan;
  const int core = ReadMachine(ProbeDevices::kNo).nodes[0].cores[0];
  for (int i = 0; i < s.nodes; ++i) {
    plan.nodes.push_back({0, std::vector<int>(static_cast<std::size_t>(s.threads), core)});
  }
  plan.layers.resize(1);
  plan.layers[0].moe = true;
  plan.layers[0].experts.resize(1);
  plan.precision = s.precision;
  plan.bf16_many_rows = s.precision == Precision::kFast;
  plan.block_formats = IsBlockFormat(s.weights);
  plan.kv_type = s.kv_type;
  plan.kv_blocks = 80;
  plan.max_rows = 256;
  return plan;
}

// Rows of one sequence, at its last positions.
struct Rows {
  std::int64_t rows = 1;
  std::int64_t n_keys = 1;
};

// One layer's attention with random weights, queries and cache.
class Layer {
 public:
  explicit Layer(const LayerSetup& s)
      : s_(s),
        c_(TinyConfig(s.heads)),
        plan_(TinyPlan(s)),
        host_(plan_, c_),
        forward_(c_, plan_, weights_, host_, {}),
        q_(host_.Activation("q", c_.num_attention_heads * c_.qk_head_dim())),
        out_(host_.Activation("attention_out", c_.num_attention_heads * c_.v_head_dim)),
        mla_(forward_, q_, out_) {
    host_.CheckWorkerScratch(mla_.worker_floats());
    weights_.layers.resize(1);
    MakeWeights();
    MakeCache();
  }

  std::vector<float> Run(const std::vector<Rows>& step) {
    Prepare(step);
    mla_.Run(0);
    const std::int64_t width = c_.num_attention_heads * c_.v_head_dim;
    return {out_.row(0), out_.row(0) + forward_.T() * width};
  }

  std::vector<double> Formula(double* limit) const;

 private:
  std::int64_t H() const { return c_.num_attention_heads; }
  std::int64_t R() const { return c_.kv_lora_rank; }
  std::int64_t nope() const { return c_.qk_nope_head_dim; }
  std::int64_t v() const { return c_.v_head_dim; }

  // Stores [rows, cols] as the setup says, cut at whole heads, and gives back what it holds.
  std::vector<float> Place(Matrix& m, TensorInfo& info, Part part, std::int64_t rows,
                           std::int64_t cols, const std::vector<float>& values) {
    info.shape = {rows, cols};
    info.dtype = s_.weights;
    info.role = Role::kAttention;
    info.part = part;
    m.info = &info;
    std::vector<float> held = values;
    std::vector<std::byte> blocks(DataBytes(s_.weights, rows * cols));
    if (IsBlockFormat(s_.weights)) {
      QuantizeRows(s_.weights, values.data(), rows, cols, nullptr, blocks.data());
      DecodeBlocks(s_.weights, blocks.data(), held);
    } else if (s_.weights == DType::kBF16) {
      auto* to = reinterpret_cast<std::uint16_t*>(blocks.data());
      for (std::size_t i = 0; i < held.size(); ++i)
        held[i] = Bf16ToF32(to[i] = F32ToBf16(values[i]));
    } else {
      std::memcpy(blocks.data(), values.data(), blocks.size());
    }
    HostBuffer& memory = memory_.emplace_back(HostBuffer(blocks.size()));
    if (IsBlockFormat(s_.weights)) {
      cpu::PackPanels(s_.weights, blocks.data(), rows, cols, memory.data());
    } else {
      std::memcpy(memory.data(), blocks.data(), blocks.size());
    }
    const std::int64_t head = rows / H();
    for (int n = 0; n < s_.nodes; ++n) {
      const std::int64_t first = H() * n / s_.nodes * head;
      const std::int64_t last = H() * (n + 1) / s_.nodes * head;
      m.shards.push_back(
          {n, first, last, memory.data() + DataBytes(s_.weights, first * cols), nullptr});
    }
    return held;
  }

  void MakeWeights() {
    memory_.reserve(2);
    AttentionWeights& w = weights_.layers[0].attention;
    const float limit = 1.7F / std::sqrt(static_cast<float>(R()));
    if (s_.split) {
      k_b_ = Place(w.k_b, infos_[0], Part::kKB, H() * R(), nope(),
                   random_.Uniforms(H() * R() * nope(), -limit, limit));
      v_b_ = Place(w.v_b, infos_[1], Part::kVB, H() * v(), R(),
                   random_.Uniforms(H() * v() * R(), -limit, limit));
      return;
    }
    const std::int64_t head = nope() + v();
    const auto joint = Place(w.kv_b, infos_[0], Part::kKvB, H() * head, R(),
                             random_.Uniforms(H() * head * R(), -limit, limit));
    for (std::int64_t h = 0; h < H(); ++h) {
      const float* rows = joint.data() + h * head * R();
      for (std::int64_t r = 0; r < R(); ++r) {
        for (std::int64_t i = 0; i < nope(); ++i) k_b_.push_back(rows[i * R() + r]);
      }
      v_b_.insert(v_b_.end(), rows + nope() * R(), rows + head * R());
    }
  }

  void MakeCache() {
    const cpu::KvLayout layout = LayoutOfKv(c_, s_.kv_type);
    const std::int64_t tokens = plan_.kv_blocks * kKvBlock;
    const std::vector<float> x = random_.Uniforms(tokens * layout.width, -1, 1);
    std::byte* store = forward_.kv[0].host.data();
    host_.kernels.kv_encode({layout, x.data(), layout.width, store, tokens});
    cache_.resize(x.size());
    host_.kernels.kv_decode({layout, store, tokens, cache_.data(), DType::kF32, layout.width});
  }

  // Sequences take the blocks from the last one down.
  void Prepare(const std::vector<Rows>& step) {
    n_keys_.clear();
    table_start_.clear();
    tables_.clear();
    auto block = static_cast<std::int32_t>(plan_.kv_blocks);
    for (const Rows& sequence : step) {
      const auto start = static_cast<std::int32_t>(tables_.size());
      for (std::int64_t j = 0; j < sequence.n_keys; j += kKvBlock) tables_.push_back(--block);
      for (std::int64_t t = 0; t < sequence.rows; ++t) {
        table_start_.push_back(start);
        n_keys_.push_back(static_cast<std::int32_t>(sequence.n_keys - sequence.rows + 1 + t));
      }
    }
    Batch& b = forward_.batch;
    b.T = static_cast<std::int64_t>(n_keys_.size());
    b.n_keys = n_keys_;
    b.table_start = table_start_;
    b.tables = tables_;
    const std::vector<float> q = Random(99).Uniforms(b.T * q_.stride(), -1, 1);
    std::copy(q.begin(), q.end(), q_.row(0));
  }

  const float* Token(std::int64_t t, std::int64_t j) const {
    const std::int64_t block = tables_[static_cast<std::size_t>(table_start_[t] + j / kKvBlock)];
    return cache_.data() + (block * kKvBlock + j % kKvBlock) * c_.kv_width();
  }

  LayerSetup s_;
  Config c_;
  Plan plan_;
  Weights weights_;
  HostSide host_;
  Forward forward_;
  HostActivation q_, out_;
  MlaOnHost mla_;
  Random random_{5};
  TensorInfo infos_[2];
  std::vector<HostBuffer> memory_;
  std::vector<float> k_b_, v_b_, cache_;  // as stored, decoded
  std::vector<std::int32_t> n_keys_, table_start_, tables_;
};

// The scores go over the query in latent space, so that the keys need not be made; sums in double.
std::vector<double> Layer::Formula(double* limit) const {
  std::vector<double> out;
  double v_deviation = 0;
  double score_deviation = 0;
  for (std::int64_t t = 0; t < forward_.T(); ++t) {
    for (std::int64_t h = 0; h < H(); ++h) {
      const float* q = q_.row(t) + h * c_.qk_head_dim();
      std::vector<double> latent_q(static_cast<std::size_t>(R()));
      for (std::int64_t r = 0; r < R(); ++r) {
        for (std::int64_t i = 0; i < nope(); ++i) {
          latent_q[r] += static_cast<double>(q[i]) * k_b_[(h * R() + r) * nope() + i];
        }
      }
      std::vector<double> weights;
      for (std::int64_t j = 0; j < n_keys_[t]; ++j) {
        const float* c = Token(t, j);
        double score = 0;
        double squares = 0;
        for (std::int64_t r = 0; r < R(); ++r) {
          score += latent_q[r] * c[r];
          squares += latent_q[r] * c[r] * latent_q[r] * c[r];
        }
        for (std::int64_t i = 0; i < c_.qk_rope_head_dim; ++i) {
          const double term = static_cast<double>(q[nope() + i]) * c[R() + i];
          score += term;
          squares += term * term;
        }
        weights.push_back(score * c_.softmax_scale());
        score_deviation = std::max(score_deviation, std::sqrt(squares) * c_.softmax_scale());
      }
      const double top = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w - top);
      std::vector<double> u(static_cast<std::size_t>(R()));
      for (std::int64_t j = 0; j < n_keys_[t]; ++j) {
        for (std::int64_t r = 0; r < R(); ++r) u[r] += weights[j] / sum * Token(t, j)[r];
      }
      for (std::int64_t i = 0; i < v(); ++i) {
        double value = 0;
        double squares = 0;
        for (std::int64_t r = 0; r < R(); ++r) {
          value += u[r] * v_b_[(h * v() + i) * R() + r];
          const double w = v_b_[(h * v() + i) * R() + r];
          squares += w * w / 3;  // of products with values uniform in [-1, 1]
        }
        v_deviation = std::max(v_deviation, std::sqrt(squares));
        out.push_back(value);
      }
    }
  }
  // Products rounded by u each, some three times on their way, make a sum that errs like a random
  // walk: four deviations of it. An error of a score moves an output by about as much times the
  // deviation of V.
  const double u = s_.precision == Precision::kExact ? 0x1p-24 * 32 : 0x1p-8;
  const double relative = 4 * std::sqrt(3.0) * u;
  *limit = (score_deviation + 1) * v_deviation * relative;
  return out;
}

void Check(const LayerSetup& s, const std::vector<Rows>& step, const char* what) {
  Layer layer(s);
  const std::vector<float> got = layer.Run(step);
  double limit = 0;
  const std::vector<double> want = layer.Formula(&limit);
  EXPECT_TRUE(AllWithin(got, want, std::vector<double>(want.size(), limit)))
      << what << ", " << (s.precision == Precision::kExact ? "exact" : "fast") << ", cache "
      << Name(s.kv_type) << ", weights " << Name(s.weights) << (s.split ? " split" : "") << ", "
      << s.heads << " heads";
}

constexpr Precision kBoth[] = {Precision::kExact, Precision::kFast};

TEST(MlaOnHost, OneRowOverAnyNumberOfKeys) {
  for (const Precision precision : kBoth) {
    for (const std::int64_t n_keys : {1, 63, 64, 65, 256, 257, 1000, 4097}) {
      Check({.precision = precision}, {{1, n_keys}}, "one row");
    }
  }
}

TEST(MlaOnHost, RowsOfOneSequenceAreCausal) {
  for (const Precision precision : kBoth) {
    for (const std::int64_t rows : {2, 17, 64, 200}) {
      Check({.precision = precision}, {{rows, rows}}, "a prompt's first rows");
      Check({.precision = precision}, {{rows, rows + 300}}, "rows behind others");
    }
  }
}

TEST(MlaOnHost, SequencesShareAStep) {
  for (const Precision precision : kBoth) {
    Check({.precision = precision}, {{1, 700}, {1, 3}, {4, 260}}, "few rows");
    Check({.precision = precision}, {{60, 90}, {1, 700}, {20, 20}, {1, 64}, {100, 400}}, "many");
  }
}

TEST(MlaOnHost, AnyNumberOfHeads) {
  for (const Precision precision : kBoth) {
    for (const std::int64_t heads : {2, 16, 128}) {
      Check({.precision = precision, .heads = heads}, {{1, 300}}, "one row");
      Check({.precision = precision, .heads = heads}, {{18, 70}}, "some rows");
    }
  }
}

TEST(MlaOnHost, AnyCacheType) {
  for (const Precision precision : kBoth) {
    for (const DType type :
         {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kF8E4M3}) {
      Check({.precision = precision, .kv_type = type}, {{1, 600}}, "one row");
      Check({.precision = precision, .kv_type = type}, {{120, 200}}, "many rows");
    }
  }
}

TEST(MlaOnHost, AnyWeights) {
  for (const Precision precision : kBoth) {
    for (const DType type : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
      for (const bool split : {false, true}) {
        if (IsBlockFormat(type) && !split) continue;
        const LayerSetup s{.precision = precision, .weights = type, .split = split};
        Check(s, {{1, 100}}, "one row");
        Check(s, {{120, 265}}, "many rows");
      }
    }
  }
}

TEST(MlaOnHost, ThreadsAndNodesDoNotChangeABit) {
  const std::vector<std::vector<Rows>> steps = {
      {{1, 5000}}, {{3, 4097}, {1, 9}}, {{60, 300}, {30, 90}}};
  for (const Precision precision : kBoth) {
    for (const auto& step : steps) {
      const auto want = Layer({.precision = precision, .threads = 1}).Run(step);
      EXPECT_EQ(Layer({.precision = precision, .threads = 3}).Run(step), want);
      EXPECT_EQ(Layer({.precision = precision, .nodes = 2}).Run(step), want);
    }
  }
}

// At exact precision a row's bits depend on nothing but that row.
TEST(MlaOnHost, RowsTogetherGiveTheBitsOfRowsAlone) {
  Layer layer({});
  const auto together = layer.Run({{100, 4150}});
  // The first row of a step has the same query in both.
  const auto alone = Layer({}).Run({{1, 4051}});
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin()));
}

}  // namespace
}  // namespace tandem::test
