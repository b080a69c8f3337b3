// The host's part of a MoE layer, and dense MLPs on the host: one hand-out to the team with one
// barrier. Each node computes the rows of gate, up and down that it holds.
#include <algorithm>
#include <cstring>
#include <exception>

#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/forward.h"

namespace tandem {

void FeedForward::TakePairs() {
  const auto pairs = static_cast<std::size_t>(f_.plan.max_rows * f_.config.num_experts_per_tok);
  const auto experts = static_cast<std::size_t>(f_.config.n_routed_experts);
  float* routing = f_.host.Scratch("routing").data();
  f_.routing.ids = {reinterpret_cast<std::int32_t*>(routing), pairs};
  f_.routing.weights = {routing + pairs, pairs};
  auto* begin = reinterpret_cast<std::int64_t*>(f_.host.Scratch("pairs").data());
  pair_begin_ = {begin, experts + 1};
  pair_next_ = {begin + experts + 1, experts + 1};
  auto* words = reinterpret_cast<std::int32_t*>(begin + 2 * (experts + 1));
  pair_rows_ = {words, pairs};
  pair_of_ = {words + pairs, pairs};
  pair_weights_ = {reinterpret_cast<float*>(words + 2 * pairs), pairs};
  mlps_.reserve(experts + 1);
}

bool FeedForward::HasHostWork(int layer) const {
  const LayerPlan& p = f_.plan.layers[layer];
  if (!p.shared.on_device() && f_.weights.layers[layer].shared.gate) return true;
  return std::any_of(p.experts.begin(), p.experts.end(), [](Place e) { return !e.on_device(); });
}

// Whether a device beyond the first has some of the layer's experts.
bool FeedForward::HasFurtherPart(int layer) const {
  return !f_.further.empty() && std::ranges::any_of(f_.plan.layers[layer].experts, IsFurther);
}

// Groups the (row, expert) pairs whose experts live on the host by expert, in order of ids: rows of
// one expert stay in row order, so sums do not depend on what else is in the step.
void FeedForward::CollectHostMlps(int layer) {
  const LayerWeights& w = f_.weights.layers[layer];
  const LayerPlan& p = f_.plan.layers[layer];
  const Config& c = f_.config;
  mlps_.clear();
  std::int64_t act = 0;
  if (w.shared.gate && !p.shared.on_device()) {
    mlps_.push_back(AllRows(w.shared));
    act = f_.T() * w.shared.gate.rows();
  }
  SortPairs();
  const bool streams = Streams(layer);  // then they run on the first device
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    const std::int64_t begin = pair_begin_[e];
    const std::int64_t n = pair_begin_[e + 1] - begin;
    if (n == 0 || streams || f_.OnDevice(layer, e)) continue;
    mlps_.push_back(
        {&w.experts[e], n, pair_rows_.data() + begin, pair_weights_.data() + begin, act});
    act += n * c.moe_intermediate_size;
    f_.host.metrics.expert_rows_host += n;
  }
}

// pair_order_: all pairs t * K + k sorted by expert (a counting sort, stable in t);
// pair_begin_[e]: the first pair of expert e.
void FeedForward::SortPairs() {
  const std::int64_t K = f_.config.num_experts_per_tok;
  const std::int64_t pairs = f_.T() * K;
  const std::int64_t E = f_.config.n_routed_experts;
  std::ranges::fill(pair_begin_, 0);
  for (std::int64_t i = 0; i < pairs; ++i) ++pair_begin_[f_.routing.ids[i] + 1];
  for (std::int64_t e = 0; e < E; ++e) pair_begin_[e + 1] += pair_begin_[e];
  std::ranges::copy(pair_begin_, pair_next_.begin());
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int64_t at = pair_next_[f_.routing.ids[i]]++;
    pair_rows_[at] = static_cast<std::int32_t>(i / K);
    pair_weights_[at] = f_.routing.weights[i];
    pair_of_[i] = static_cast<std::int32_t>(at);
  }
}

// y += the host's experts and those of devices beyond the first, which run meanwhile. Their sums
// are added in the order of the devices, whichever is there first: results do not depend on it.
void FeedForward::RunHostPart(int layer, float* y, const std::function<void()>& meanwhile) {
  const ChosenRows rows{f_.T(), f_.h.row(0), f_.routing.ids.data(), f_.routing.weights.data()};
  for (const auto& device : f_.further) device->Start(layer, rows);
  const double start = Now();
  CollectHostMlps(layer);
  if (!mlps_.empty()) {
    RunOnHost(mlps_, y, f_.config.hidden_size, meanwhile);
  } else if (meanwhile) {
    meanwhile();
  }
  f_.host.metrics.host_moe_s += Now() - start;
  for (const auto& device : f_.further) device->AddTo(y);
}

void FeedForward::RunOnHost(std::span<const HostMlp> mlps, float* y, std::int64_t y_stride,
                            const std::function<void()>& meanwhile) {
  std::int64_t rows = 0;
  std::int64_t most = 0;
  for (const HostMlp& m : mlps) {
    rows += 2 * m.w->gate.rows();
    most = std::max(most, m.T);
    f_.host.metrics.host_weight_bytes +=
        m.w->gate.info->bytes() + m.w->up.info->bytes() + m.w->down.info->bytes();
  }
  const std::int64_t up_step = TicketRows(rows, f_.host.pool.size() * 2, most);
  // A ticket of down goes through all MLPs: smaller ones, so that all workers finish together.
  const std::int64_t down_step = TicketRows(mlps[0].w->down.rows(), f_.host.pool.size() * 2, most);
  f_.host.CheckWorkerScratch(2 * most * up_step);
  f_.host.ResetTickets();
  std::exception_ptr failure;  // the team's work must not throw
  f_.host.pool.Run([&](const Worker& w) {
    // The caller enqueues for the device first: the others take its tickets meanwhile.
    if (w.index == 0 && meanwhile) {
      try {
        meanwhile();
      } catch (...) {
        failure = std::current_exception();
      }
    }
    GateAndUp(mlps, up_step, w);
    f_.host.pool.Barrier();
    Down(mlps, down_step, y, y_stride, w);
  });
  if (failure) std::rethrow_exception(failure);
}

// act[t, f] = weight[t] * silu(gate_f . h[t]) * (up_f . h[t]) for the node's rows f of every MLP.
void FeedForward::GateAndUp(std::span<const HostMlp> mlps, std::int64_t step, const Worker& w) {
  TicketCounter& tickets = f_.host.tickets[w.node];
  std::int64_t ticket = tickets.Take();
  std::int64_t first = 0;  // ticket number of the shard's first chunk; tickets only grow
  for (const HostMlp& m : mlps) {
    for (std::size_t s = 0; s < m.w->gate.shards.size(); ++s) {
      const HostShard& gate = m.w->gate.shards[s];
      if (gate.node != w.node) continue;
      const std::int64_t rows = gate.row1 - gate.row0;
      const std::int64_t chunks = (rows + step - 1) / step;
      for (; ticket < first + chunks; ticket = tickets.Take()) {
        const std::int64_t r0 = (ticket - first) * step;
        GateAndUpRows(m, gate, m.w->up.shards[s], r0, std::min(rows, r0 + step), w);
      }
      first += chunks;
    }
  }
}

void FeedForward::GateAndUpRows(const HostMlp& m, const HostShard& gate, const HostShard& up,
                                std::int64_t r0, std::int64_t r1, const Worker& w) {
  const std::int64_t n = r1 - r0;
  const std::int64_t width = m.w->gate.rows();
  float* g = f_.host.scratch(w);
  float* u = g + m.T * n;
  auto product = [&](const Matrix& matrix, const HostShard& shard, float* y) {
    cpu::LinearArgs a = ShardArgs(shard, matrix, r0, r1);
    a.x_rows = m.rows;
    a.y = y;
    a.y_stride = n;
    a.T = m.T;
    CallLinear(f_.host, matrix, f_.h.rows(), a);
  };
  product(m.w->gate, gate, g);
  product(m.w->up, up, u);
  const HostActivation act = act_.At(m.act0, width);
  const std::int64_t at = gate.row0 + r0;
  f_.host.kernels.swiglu({g, n, u, n, m.row_weights, act.row(0) + at, DType::kF32, width, m.T, n});
  for (std::int64_t t = 0; t < m.T; ++t) act.Shade(f_.host.kernels, t, at, n);
}

// y[t, d] += down_d . act[t] for the node's rows d, all MLPs one after another in a fixed order.
void FeedForward::Down(std::span<const HostMlp> mlps, std::int64_t step, float* y,
                       std::int64_t y_stride, const Worker& w) {
  for (std::size_t s = 0; s < mlps[0].w->down.shards.size(); ++s) {
    const HostShard& first = mlps[0].w->down.shards[s];
    if (first.node != w.node) continue;
    const std::int64_t rows = first.row1 - first.row0;
    for (std::int64_t r0 = f_.host.tickets2[w.node].Take() * step; r0 < rows;
         r0 = f_.host.tickets2[w.node].Take() * step) {
      for (const HostMlp& m : mlps) {
        const HostShard& shard = m.w->down.shards[s];
        cpu::LinearArgs a = ShardArgs(shard, m.w->down, r0, std::min(rows, r0 + step));
        const std::int64_t width = m.w->gate.rows();
        a.y = y + shard.row0 + r0;
        a.y_stride = y_stride;
        a.y_rows = m.rows;
        a.T = m.T;
        a.accumulate = true;
        CallLinear(f_.host, m.w->down, act_.At(m.act0, width).rows(), a);
      }
    }
  }
}

}  // namespace tandem
