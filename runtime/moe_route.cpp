// The router of a MoE layer: norm, scores, and the choice of experts, on either side. Where the
// device chooses, the host learns of it only if it has experts to run.
#include <algorithm>

#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/forward.h"

namespace tandem {
namespace {

template <class Args>
void SetRule(Args& a, const Config& c) {
  a.E = c.n_routed_experts;
  a.K = c.num_experts_per_tok;
  a.n_group = c.n_group;
  a.topk_group = c.topk_group;
  a.norm_topk_prob = c.norm_topk_prob;
  // V2 scales only what it did not normalise; V3 normalises and scales.
  a.scale_normalised = c.family == Family::kDeepSeekV3;
  a.routed_scaling_factor = static_cast<float>(c.routed_scaling_factor);
}

cpu::ScoringFunc Scoring(const Config& c) {
  return c.scoring_func == "sigmoid" ? cpu::ScoringFunc::kSigmoid : cpu::ScoringFunc::kSoftmax;
}

cpu::TopkMethod Method(const Config& c) {
  if (c.topk_method == "noaux_tc") return cpu::TopkMethod::kNoauxTc;
  if (c.topk_method == "group_limited_greedy") return cpu::TopkMethod::kGroupLimitedGreedy;
  return cpu::TopkMethod::kGreedy;
}

}  // namespace

// What a debugging caller sees of the choice; the device's is read for it.
void FeedForward::Observe(int layer) {
  const auto n = static_cast<std::size_t>(f_.T() * f_.config.num_experts_per_tok);
  if (f_.plan.layers[layer].router.on_device()) {
    const ClDevice& device = f_.device->device;
    device.BlockingRead(dexperts_.choice.buffer, 0, f_.routing.ids.data(), n * sizeof(float));
    device.BlockingRead(dexperts_.choice.buffer, n * sizeof(float), f_.routing.weights.data(),
                        n * sizeof(float));
  }
  f_.observer->OnRouter(layer, {f_.routing.ids.data(), n}, {f_.routing.weights.data(), n});
}

void FeedForward::RouteOnHost(int layer) {
  const LayerWeights& w = f_.weights.layers[layer];
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  RmsNormOnHost(f_.host, f_.x.host(), D, w.post_norm, f_.h, D, f_.T(), c.rms_norm_eps);
  // In f32 at every precision: the choice is discrete, and the matrix is small.
  const HostRows h{.f32 = f_.h.row(0), .stride = D};
  const HostLinear task{&w.router, h, nullptr, logits_.row(0), c.n_routed_experts, f_.T(), false};
  LinearOnHost(f_.host, {&task, 1});
  SelectOnHost(layer, logits_.row(0));
}

void FeedForward::SelectOnHost(int layer, const float* logits) {
  const Config& c = f_.config;
  const Vector& bias = f_.weights.layers[layer].router_bias;
  f_.host.ForRows(f_.T(), [&](std::int64_t t0, std::int64_t t1) {
    cpu::RouterArgs a;
    SetRule(a, c);
    a.scoring = Scoring(c);
    a.method = Method(c);
    a.logits = logits + t0 * a.E;
    a.logits_stride = a.E;
    a.bias = bias.host.empty() ? nullptr : bias.host.data();
    a.ids = f_.routing.ids.data() + t0 * a.K;
    a.weights = f_.routing.weights.data() + t0 * a.K;
    a.T = t1 - t0;
    f_.host.kernels.router(a);
  });
}

void FeedForward::RouteOnDevice(int layer) {
  const LayerWeights& w = f_.weights.layers[layer];
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  const std::int64_t T = f_.T();
  DeviceSide& d = *f_.device;
  shared_made_ = false;  // what a step that failed may have left
  d.metrics.device_weight_bytes += w.router.info->bytes();
  cl::LinearArgs scores{
      f_.x.on_device(), D, w.router.device, dlogits_, c.n_routed_experts, T, false};
  scores.norm = {w.post_norm.device, static_cast<float>(c.rms_norm_eps), f_.h_device, D};
  cl::RouterArgs a;
  SetRule(a, c);
  a.scoring = static_cast<int>(Scoring(c));
  a.method = static_cast<int>(Method(c));
  a.logits = dlogits_;
  a.bias = w.router_bias.device;
  a.ids = dexperts_.choice;
  a.weights = {dexperts_.choice.buffer, dexperts_.choice.offset + T * a.K};
  a.T = T;
  if (RoutesOneRow(layer)) {
    const cl::ExpertsArgs experts = ExpertsOf(layer);
    const cl::GroupArgs lists = GroupOf(layer, experts);
    shared_made_ = SharedNeedsNoChoice(layer) &&
                   d.kernels.RouterAndShared(scores, a, lists, experts, w.shared.gate.device,
                                             w.shared.up.device);
    if (!shared_made_) d.kernels.ScoresAndRouter(scores, a, lists);
  } else {
    d.kernels.Linear(scores);
    d.kernels.Router(a);
  }
  if (HandsOver(layer)) d.hand_over->Publish(f_.h_device, a.ids, a.weights);
}

void FeedForward::Receive() {
  const double start = Now();
  const HandOverInput in = f_.device->hand_over->Await();
  f_.device->metrics.device_wait_s += Now() - start;
  const std::int64_t T = f_.T();
  const std::int64_t D = f_.config.hidden_size;
  const std::int64_t pairs = T * f_.config.num_experts_per_tok;
  std::copy_n(in.ids, pairs, f_.routing.ids.begin());
  std::copy_n(in.weights, pairs, f_.routing.weights.begin());
  f_.host.ForRows(T, [&](std::int64_t t0, std::int64_t t1) {
    for (std::int64_t t = t0; t < t1; ++t) {
      std::copy_n(in.h + t * D, D, f_.h.row(t));
      f_.h.Shade(f_.host.kernels, t, 0, D);
    }
  });
}

}  // namespace tandem
