#include "tests/support/naive_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory/dtype.h"

namespace tandem::test {
namespace {

using Vec = std::vector<double>;

float Decode(DType type, const std::byte* p) {
  std::uint16_t half = 0;
  float whole = 0;
  if (type == DType::kF8E4M3) return E4M3ToF32(static_cast<std::uint8_t>(*p));
  if (type == DType::kBF16) {
    std::memcpy(&half, p, 2);
    return Bf16ToF32(half);
  }
  std::memcpy(&whole, p, 4);
  return whole;
}

void Add(Vec& to, const Vec& from, double factor = 1) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += factor * from[i];
}

double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

// The indices of the n largest.
std::vector<int> Top(const Vec& values, std::int64_t n) {
  std::vector<int> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::ranges::stable_sort(order, [&](int a, int b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(n));
  return order;
}

std::string LayerName(int layer) { return "model.layers." + std::to_string(layer) + "."; }

}  // namespace

NaiveModel::NaiveModel(const std::string& dir, const Config& config)
    : file_(dir + "/model.safetensors"), config_(config) {}

const NaiveModel::Weight& NaiveModel::Get(const std::string& name) {
  const auto known = weights_.find(name);
  if (known != weights_.end()) return known->second;
  const SafetensorsEntry& entry = file_.Get(name);
  const std::vector<std::byte> bytes = file_.Bytes(name);
  Weight w;
  w.rows = entry.shape[0];
  w.cols = entry.shape.size() > 1 ? entry.shape[1] : 1;
  const std::size_t size = BytesOf(entry.dtype);
  const bool scaled = entry.dtype == DType::kF8E4M3;
  const std::vector<float> scales =
      scaled ? file_.Floats(name + "_scale_inv") : std::vector<float>();
  const std::int64_t scale_cols = (w.cols + 127) / 128;
  for (std::int64_t i = 0; i < w.rows * w.cols; ++i) {
    const std::int64_t block = i / w.cols / 128 * scale_cols + i % w.cols / 128;
    const float value = Decode(entry.dtype, bytes.data() + static_cast<std::size_t>(i) * size);
    w.values.push_back(value * (scaled ? scales[static_cast<std::size_t>(block)] : 1));
  }
  return weights_.emplace(name, std::move(w)).first->second;
}

Vec NaiveModel::Product(const std::string& name, const Vec& x) {
  const Weight& w = Get(name + ".weight");
  Vec y(static_cast<std::size_t>(w.rows));
  for (std::int64_t r = 0; r < w.rows; ++r) {
    const float* row = w.values.data() + r * w.cols;
    for (std::int64_t c = 0; c < w.cols; ++c) y[r] += double{row[c]} * x[c];
  }
  return y;
}

Vec NaiveModel::Norm(const std::string& name, const Vec& x) {
  const Weight& w = Get(name + ".weight");
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double scale =
      1 / std::sqrt(squares / static_cast<double>(x.size()) + config_.rms_norm_eps);
  Vec y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * w.values[i];
  return y;
}

Vec NaiveModel::Mlp(const std::string& prefix, const Vec& h) {
  Vec gate = Product(prefix + "gate_proj", h);
  const Vec up = Product(prefix + "up_proj", h);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= Sigmoid(gate[i]) * up[i];
  return Product(prefix + "down_proj", gate);
}

// Pairs (2i, 2i + 1) at the position in progress.
void NaiveModel::Rotate(double* values) const {
  const std::vector<double> frequencies = config_.inv_freq();
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = static_cast<double>(position_) * frequencies[i];
    const double a = values[2 * i];
    const double b = values[2 * i + 1];
    values[2 * i] = a * std::cos(angle) - b * std::sin(angle);
    values[2 * i + 1] = a * std::sin(angle) + b * std::cos(angle);
  }
}

// `q` of one head, rotated; the keys and values of all tokens are expanded from their latents.
Vec NaiveModel::AttendHead(int layer, std::int64_t head, const Vec& q) {
  const std::int64_t nope = config_.qk_nope_head_dim;
  const std::int64_t width = nope + config_.v_head_dim;
  const Weight& kv_b = Get(LayerName(layer) + "self_attn.kv_b_proj.weight");
  const auto expand = [&](std::int64_t row, const Vec& latent) {
    const float* w = kv_b.values.data() + (head * width + row) * kv_b.cols;
    double sum = 0;
    for (std::int64_t c = 0; c < kv_b.cols; ++c) sum += double{w[c]} * latent[c];
    return sum;
  };
  Vec scores;
  for (const Cached& token : cache_[static_cast<std::size_t>(layer)]) {
    double score = 0;
    for (std::int64_t i = 0; i < nope; ++i) score += q[i] * expand(i, token.latent);
    for (std::size_t i = 0; i < token.key.size(); ++i) score += q[nope + i] * token.key[i];
    scores.push_back(score * config_.softmax_scale());
  }
  const double most = *std::ranges::max_element(scores);
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - most);
  Vec out(static_cast<std::size_t>(config_.v_head_dim));
  for (std::size_t t = 0; t < scores.size(); ++t) {
    const Vec& latent = cache_[static_cast<std::size_t>(layer)][t].latent;
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] += scores[t] / sum * expand(nope + static_cast<std::int64_t>(i), latent);
    }
  }
  return out;
}

Vec NaiveModel::Attention(int layer, const Vec& x) {
  const std::string prefix = LayerName(layer) + "self_attn.";
  const Vec xn = Norm(LayerName(layer) + "input_layernorm", x);
  const Vec q = Product(prefix + "q_b_proj",
                        Norm(prefix + "q_a_layernorm", Product(prefix + "q_a_proj", xn)));
  const Vec kv = Product(prefix + "kv_a_proj_with_mqa", xn);
  const auto rank = static_cast<std::ptrdiff_t>(config_.kv_lora_rank);
  Cached token{Norm(prefix + "kv_a_layernorm", Vec(kv.begin(), kv.begin() + rank)),
               Vec(kv.begin() + rank, kv.end())};
  Rotate(token.key.data());
  cache_[static_cast<std::size_t>(layer)].push_back(std::move(token));
  const auto width = static_cast<std::ptrdiff_t>(config_.qk_head_dim());
  Vec out;
  for (std::ptrdiff_t head = 0; head < config_.num_attention_heads; ++head) {
    Vec of_head(q.begin() + head * width, q.begin() + (head + 1) * width);
    Rotate(of_head.data() + config_.qk_nope_head_dim);
    const Vec values = AttendHead(layer, head, of_head);
    out.insert(out.end(), values.begin(), values.end());
  }
  return Product(prefix + "o_proj", out);
}

// The chosen experts with their weights: sigmoid scores, the best groups by their two best, biased.
std::map<int, double> NaiveModel::Choose(int layer, const Vec& h) {
  const std::string prefix = LayerName(layer) + "mlp.gate";
  Vec scores = Product(prefix, h);
  for (double& score : scores) score = Sigmoid(score);
  Vec biased = scores;
  const Weight& bias = Get(prefix + ".e_score_correction_bias");
  for (std::size_t e = 0; e < biased.size(); ++e) biased[e] += bias.values[e];
  const std::size_t size = biased.size() / static_cast<std::size_t>(config_.n_group);
  Vec groups;
  for (std::size_t g = 0; g < biased.size(); g += size) {
    Vec group(biased.begin() + static_cast<std::ptrdiff_t>(g),
              biased.begin() + static_cast<std::ptrdiff_t>(g + size));
    std::ranges::sort(group, std::greater<>());
    groups.push_back(group[0] + group[1]);
  }
  Vec open(biased.size(), -INFINITY);
  for (const int g : Top(groups, config_.topk_group)) {
    for (std::size_t e = static_cast<std::size_t>(g) * size;
         e < (static_cast<std::size_t>(g) + 1) * size; ++e) {
      open[e] = biased[e];
    }
  }
  std::map<int, double> chosen;
  double sum = 0;
  for (const int e : Top(open, config_.num_experts_per_tok)) {
    sum += chosen[e] = scores[static_cast<std::size_t>(e)];
  }
  for (auto& [expert, weight] : chosen) weight *= config_.routed_scaling_factor / sum;
  return chosen;
}

Vec NaiveModel::Step(std::int32_t token) {
  const auto width = static_cast<std::ptrdiff_t>(config_.hidden_size);
  const Weight& embedding = Get("model.embed_tokens.weight");
  Vec x(embedding.values.begin() + token * width, embedding.values.begin() + (token + 1) * width);
  Vec waiting(x.size());  // sums that are still to be added
  for (int layer = 0; layer < config_.num_hidden_layers; ++layer) {
    Add(x, Attention(layer, x));
    const Vec h = Norm(LayerName(layer) + "post_attention_layernorm", x);
    Add(x, waiting);
    waiting.assign(x.size(), 0);
    const std::string prefix = LayerName(layer) + "mlp.";
    if (!config_.IsMoeLayer(layer)) {
      Add(x, Mlp(prefix, h));
      continue;
    }
    std::map<int, double> parts = Choose(layer, h);
    parts[-1] = 1;
    for (const auto& [expert, weight] : parts) {
      const std::string name =
          expert < 0 ? "shared_experts." : "experts." + std::to_string(expert) + ".";
      Add(late(layer, expert) ? waiting : x, Mlp(prefix + name, h), weight);
    }
    if (defers(layer)) continue;
    Add(x, waiting);
    waiting.assign(x.size(), 0);
  }
  ++position_;
  return Product("lm_head", Norm("model.norm", x));
}

std::vector<float> NaiveModel::Logits(const std::vector<std::int32_t>& ids) {
  cache_.assign(static_cast<std::size_t>(config_.num_hidden_layers), {});
  position_ = 0;
  std::vector<float> logits;
  for (const std::int32_t id : ids) {
    for (const double v : Step(id)) logits.push_back(static_cast<float>(v));
  }
  return logits;
}

}  // namespace tandem::test
