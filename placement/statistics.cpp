#include "placement/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <numeric>
#include <string_view>

#include "memory/error.h"
#include "placement/statistics_json.h"

namespace tandem {
namespace {

// FNV-1a, 64 bits: tells models apart, keeps no secrets.
class Hash {
 public:
  void Add(std::string_view text) {
    for (const char c : text) Mix(static_cast<unsigned char>(c));
    Mix(0);  // "ab", "c" and "a", "bc" are two things
  }
  void Add(std::int64_t value) {
    const auto bits = static_cast<std::uint64_t>(value);
    for (int shift = 0; shift < 64; shift += 8) Mix(static_cast<unsigned char>(bits >> shift));
  }
  void Add(double value) { Add(std::bit_cast<std::int64_t>(value)); }
  std::string Digits() const { return fmt::format("{:016x}", state_); }

 private:
  void Mix(unsigned char byte) { state_ = (state_ ^ byte) * 0x100000001b3; }
  std::uint64_t state_ = 0xcbf29ce484222325;
};

void AddRope(Hash& hash, const Config& c) {
  hash.Add(c.rope_theta);
  if (!c.rope_scaling) return;
  const RopeScaling& yarn = *c.rope_scaling;
  for (const double value :
       {yarn.factor, yarn.beta_fast, yarn.beta_slow, yarn.mscale, yarn.mscale_all_dim}) {
    hash.Add(value);
  }
  hash.Add(yarn.original_max_position_embeddings);
}

void AddConfig(Hash& hash, const Config& c) {
  hash.Add(c.model_type);
  for (const std::int64_t value :
       {c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads,
        c.vocab_size, c.intermediate_size, c.q_lora_rank, c.kv_lora_rank, c.qk_nope_head_dim,
        c.qk_rope_head_dim, c.v_head_dim, c.n_routed_experts, c.n_shared_experts,
        c.num_experts_per_tok, c.moe_intermediate_size, c.first_k_dense_replace, c.moe_layer_freq,
        c.n_group, c.topk_group}) {
    hash.Add(value);
  }
  hash.Add(c.scoring_func);
  hash.Add(c.topk_method);
  hash.Add(std::int64_t{c.norm_topk_prob});
  hash.Add(std::int64_t{c.tie_word_embeddings});
  hash.Add(c.routed_scaling_factor);
  hash.Add(c.rms_norm_eps);
  AddRope(hash, c);
}

using Lists = std::vector<std::vector<std::uint64_t>>;

void AddLists(Lists& into, const Lists& from) {
  into.resize(std::max(into.size(), from.size()));
  for (std::size_t l = 0; l < from.size(); ++l) {
    into[l].resize(std::max(into[l].size(), from[l].size()));
    for (std::size_t i = 0; i < from[l].size(); ++i) into[l][i] += from[l][i];
  }
}

// A list that one of the two did not record would no longer fit its token count.
void AddRecorded(Lists& into, std::int64_t into_tokens, const Lists& from,
                 std::int64_t from_tokens) {
  const bool known = (into_tokens == 0 || !into.empty()) && (from_tokens == 0 || !from.empty());
  if (known) {
    AddLists(into, from);
  } else {
    into.clear();
  }
}

// Whether the same layers were counted: what one side lacks would no longer sum to the tokens.
bool SameLayers(const Lists& a, const Lists& b) {
  const auto counted = [](const Lists& lists, std::size_t layer) {
    return layer < lists.size() && !lists[layer].empty();
  };
  for (std::size_t l = 0; l < std::max(a.size(), b.size()); ++l) {
    if (counted(a, l) != counted(b, l)) return false;
  }
  return true;
}

void AddCounts(RoutingCounts& into, const RoutingCounts& from, const std::string& name) {
  if (from.tokens > kMaxStatisticsTokens - into.tokens) {
    Throw<ConfigError>("statistics of {}: {} and {} tokens are more than the {} that can be kept",
                       QuotedName(name), into.tokens, from.tokens, kMaxStatisticsTokens);
  }
  if (into.tokens > 0 && from.tokens > 0 && !SameLayers(into.counts, from.counts)) {
    Throw<ConfigError>("statistics of {}: of other layers than those that they are added to",
                       QuotedName(name));
  }
  AddLists(into.counts, from.counts);
  AddRecorded(into.distances, into.tokens, from.distances, from.tokens);
  AddRecorded(into.ranks, into.tokens, from.ranks, from.tokens);
  AddRecorded(into.chunk_uses, into.tokens, from.chunk_uses, from.tokens);
  into.chunks = into.chunk_uses.empty() ? 0 : into.chunks + from.chunks;
  into.tokens += from.tokens;
}

RoutingDomain& DomainOf(RoutingStatistics& statistics, const std::string& name) {
  for (RoutingDomain& domain : statistics.domains) {
    if (domain.name == name) return domain;
  }
  return statistics.domains.emplace_back(RoutingDomain{.name = name, .phases = {}});
}

// "\"demo\" (5 layers, 4 of 32 experts, fingerprint 0123456789abcdef)"
std::string Described(const RoutingStatistics& s) {
  return fmt::format("{} ({} layers, {} of {} experts per token, fingerprint {})",
                     QuotedName(s.model), s.layers, s.experts_per_token, s.experts, s.fingerprint);
}

bool SameModel(const RoutingStatistics& a, const RoutingStatistics& b) {
  return a.fingerprint == b.fingerprint && a.layers == b.layers && a.experts == b.experts &&
         a.experts_per_token == b.experts_per_token;
}

void AddLayer(std::vector<double>& sums, const RoutingCounts& counts, std::int64_t layer) {
  if (layer >= std::ssize(counts.counts)) return;
  const std::vector<std::uint64_t>& row = counts.counts[static_cast<std::size_t>(layer)];
  const std::size_t n = std::min(row.size(), sums.size());
  for (std::size_t e = 0; e < n; ++e) sums[e] += static_cast<double>(row[e]);
}

}  // namespace

std::vector<double> RoutingStatistics::Shares(Phase phase, std::int64_t layer) const {
  std::vector<double> shares(static_cast<std::size_t>(experts), 0.0);
  const auto wanted = static_cast<std::size_t>(phase);
  const bool counted = std::ranges::any_of(
      domains, [&](const RoutingDomain& d) { return d.phases[wanted].tokens > 0; });
  for (const RoutingDomain& domain : domains) {
    for (std::size_t p = 0; p < kNumPhases; ++p) {
      if (p == wanted || !counted) AddLayer(shares, domain.phases[p], layer);
    }
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) {
    share = sum > 0 ? share / sum : 1.0 / static_cast<double>(experts);
  }
  return shares;
}

RoutingCounts RoutingStatistics::Total(Phase phase) const {
  RoutingCounts total;
  for (const RoutingDomain& domain : domains) {
    AddCounts(total, domain.phases[static_cast<std::size_t>(phase)], domain.name);
  }
  return total;
}

std::string ModelFingerprint(const Config& config, const TensorList& tensors) {
  Hash hash;
  AddConfig(hash, config);
  for (const TensorInfo& tensor : tensors.all()) {
    if (tensor.role == Role::kMtp) continue;  // not loaded: a copy without them is the same model
    hash.Add(tensor.name);
    for (const std::int64_t size : tensor.shape) hash.Add(size);
    hash.Add(static_cast<std::int64_t>(tensor.dtype));
  }
  return hash.Digits();
}

void Merge(RoutingStatistics& into, const RoutingStatistics& from) {
  if (!SameModel(into, from)) {
    Throw<ConfigError>("statistics of {} cannot be added to those of {}: they are of two models",
                       Described(from), Described(into));
  }
  for (const RoutingDomain& domain : from.domains) {
    RoutingDomain& to = DomainOf(into, domain.name);
    for (std::size_t p = 0; p < kNumPhases; ++p) {
      AddCounts(to.phases[p], domain.phases[p], domain.name);
    }
  }
}

void CheckStatistics(const RoutingStatistics& statistics, const Config& config,
                     const TensorList& tensors, const std::string& file) {
  RoutingStatistics model;
  model.model = "the model at hand";
  model.fingerprint = ModelFingerprint(config, tensors);
  model.layers = config.num_hidden_layers;
  model.experts = config.n_routed_experts;
  model.experts_per_token = config.num_experts_per_tok;
  if (SameModel(statistics, model)) return;
  Throw<ConfigError>("{}: made with {}, but used with {}: run `tandem calibrate` with this model",
                     file, Described(statistics), Described(model));
}

}  // namespace tandem
