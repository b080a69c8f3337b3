// The feed-forward half of a layer. In a MoE layer the device's part is enqueued first and runs
// while the team computes the host's part; the two meet in Join.
#include "runtime/forward.h"

namespace tandem {
FeedForward::FeedForward(Forward& f) : f_(f) {
  if (f.host.HasScratch("act")) act_ = f.host.Activation("act", kQuantizedBlock);
  if (f.host.HasScratch("routing")) TakePairs();
  if (f.host.HasScratch("router_logits")) {
    logits_ = f.host.Activation("router_logits", f.config.n_routed_experts);
  }
  if (f.device != nullptr) TakeDeviceScratch();
}

void FeedForward::TakeDeviceScratch() {
  if (f_.host.HasScratch("expert_jobs")) job_memory_ = f_.host.Scratch("expert_jobs");
  if (f_.host.HasScratch("host_part")) host_part_ = f_.host.Scratch("host_part");
  const auto take = [&](cl::Span& span, const char* name) {
    if (f_.device->HasScratch(name)) span = f_.device->Scratch(name);
  };
  take(dgate_, "gate");
  take(dup_, "up");
  take(dpart_, "device_part");
  take(dhost_part_, "host_part");
  take(dlogits_, "router_logits");
  take(dchoice_, "router_choice");
  take(dact_, "act");
  take(dgate_up_, "gate_up");
  take(dpair_out_, "pair_out");
  take(djobs_, "expert_jobs");
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
