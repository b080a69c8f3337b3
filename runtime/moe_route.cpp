// The router of a MoE layer: norm, scores, and the choice of experts, on either side. The host
// always learns the choice; it gets h as well only if it has work to do with it.
#include <cstring>

#include "memory/error.h"
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

void FeedForward::NormAndRoute(int layer) {
  if (f_.plan.layers[layer].router.on_device()) {
    RouteOnDevice(layer);
  } else {
    RouteOnHost(layer);
  }
  if (f_.observer == nullptr) return;
  const std::size_t n = f_.T() * f_.config.num_experts_per_tok;
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
  d.kernels.RmsNorm({f_.x.on_device(), D, w.post_norm.device, f_.h_device, D, T, D,
                     static_cast<float>(c.rms_norm_eps)});
  d.kernels.Linear({f_.h_device, D, w.router.device, dlogits_, c.n_routed_experts, T, false});
  cl::RouterArgs a;
  SetRule(a, c);
  a.scoring = static_cast<int>(Scoring(c));
  a.method = static_cast<int>(Method(c));
  a.logits = dlogits_;
  a.bias = w.router_bias.device;
  // One behind the other, so that one read brings both: a read costs some 20 us, whatever its size.
  const std::int64_t pairs = T * a.K;
  a.ids = dchoice_;
  a.weights = {dchoice_.buffer, dchoice_.offset + pairs};
  a.T = T;
  d.kernels.Router(a);
  ClEventHandle choice = d.Read(dchoice_, f_.routing.ids.data(), 2 * pairs * sizeof(float));
  ClEventHandle h;
  if (HasHostWork(layer)) h = d.Read(f_.h_device, f_.h.row(0), T * D * sizeof(float));
  // The shared experts do not depend on the choice: the device has work while the host waits.
  started_shared_ = f_.plan.layers[layer].shared.on_device() && w.shared.gate;
  if (started_shared_) MlpOnDevice(w.shared, f_.x.on_device());
  d.device.Flush();
  std::vector<cl_event> wait{choice.get()};
  if (h) wait.push_back(h.get());
  d.Wait(wait);
  std::memmove(f_.routing.weights.data(), f_.routing.ids.data() + pairs, pairs * sizeof(float));
  if (!h) return;
  f_.host.ForRows(T, [&](std::int64_t t0, std::int64_t t1) {
    for (std::int64_t t = t0; t < t1; ++t) f_.h.Shade(f_.host.kernels, t, 0, D);
  });
}

}  // namespace tandem
