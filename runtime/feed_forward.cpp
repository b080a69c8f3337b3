// The feed-forward half of a layer. In a MoE layer the device's part is enqueued first and runs
// while the team computes the host's part; the two meet in Join.
#include <algorithm>

#include "memory/error.h"
#include "runtime/forward.h"

namespace tandem {
namespace {

std::int64_t SharedWidth(const Config& c) { return c.n_shared_experts * c.moe_intermediate_size; }

}  // namespace

FeedForward::FeedForward(Forward& f) : f_(f) {
  const Config& c = f.config;
  const std::int64_t rows = f.plan.max_rows;
  const std::int64_t pairs = rows * c.num_experts_per_tok;
  const std::int64_t moe_act = rows * SharedWidth(c) + pairs * c.moe_intermediate_size;
  const std::int64_t act = std::max(rows * c.intermediate_size, moe_act);
  act_f32_ = HostBuffer(act * sizeof(float));
  if (f.host.round_activations) act_bf16_ = HostBuffer(act * sizeof(std::uint16_t));
  logits_ = HostActivation(rows, std::max<std::int64_t>(1, c.n_routed_experts), false);
  job_memory_.resize(c.num_hidden_layers);
  f.routing.ids.resize(pairs);
  f.routing.weights.resize(pairs);
  if (f.device == nullptr) return;
  host_part_ = HostBuffer(rows * c.hidden_size * sizeof(float));
  const std::int64_t width = std::max(c.intermediate_size, SharedWidth(c));
  dgate_ = f.device->Scratch("gate", rows * width);
  dup_ = f.device->Scratch("up", rows * width);
  dpart_ = f.device->Scratch("device_part", rows * c.hidden_size);
  dhost_part_ = f.device->Scratch("host_part", rows * c.hidden_size);
  if (c.n_routed_experts == 0) return;
  dlogits_ = f.device->Scratch("router_logits", rows * c.n_routed_experts);
  dids_ = f.device->Scratch("router_ids", pairs);
  dweights_ = f.device->Scratch("router_weights", pairs);
  dact_ = f.device->Scratch("act", pairs * c.moe_intermediate_size);
  dgate_up_ = f.device->Scratch("gate_up", 2 * pairs * c.moe_intermediate_size);
  dpair_out_ = f.device->Scratch("pair_out", pairs * c.hidden_size);
  const std::int64_t job_words = sizeof(cl::ExpertJob) / 4 * c.n_routed_experts;
  djobs_ = f.device->Scratch("expert_jobs", job_words + 3 * pairs);
}

void FeedForward::Run(int layer) {
  if (f_.plan.layers[layer].moe) {
    RunMoe(layer);
  } else {
    RunDense(layer);
  }
}

void FeedForward::RunDense(int layer) {
  const LayerWeights& w = f_.weights.layers[layer];
  const Config& c = f_.config;
  const Place place = f_.plan.layers[layer].dense;
  f_.x.MoveTo(place, f_.T());
  if (place.on_device()) {
    f_.device->kernels.RmsNorm({f_.x.on_device(), c.hidden_size, w.post_norm.device, f_.h_device,
                                c.hidden_size, f_.T(), c.hidden_size,
                                static_cast<float>(c.rms_norm_eps)});
    return MlpOnDevice(w.dense, f_.x.on_device());
  }
  RmsNormOnHost(f_.host, f_.x.host(), c.hidden_size, w.post_norm, f_.h, c.hidden_size, f_.T(),
                c.rms_norm_eps);
  const HostMlp mlp = AllRows(w.dense);
  RunOnHost({&mlp, 1}, f_.x.host(), c.hidden_size);
}

void FeedForward::RunMoe(int layer) {
  f_.x.MoveTo(f_.plan.layers[layer].router, f_.T());
  NormAndRoute(layer);
  StartDevicePart(layer);
  RunHostPart(layer);
  Join(layer);
}

FeedForward::HostMlp FeedForward::AllRows(const MlpWeights& w) const {
  HostMlp mlp;
  mlp.w = &w;
  mlp.T = f_.T();
  return mlp;
}

}  // namespace tandem
