// The feed-forward half of a layer. In a MoE layer the device's part is enqueued first and runs
// while the team computes the host's part; the two meet in Join.
#include "placement/deferral.h"
#include "runtime/forward.h"

namespace tandem {

static_assert(kDeferredRows <= kPolledRows, "layers overlap in such steps only");

FeedForward::FeedForward(Forward& f) : f_(f) {
  if (f.host.HasScratch("act")) act_ = f.host.Activation("act", kQuantizedBlock);
  if (f.host.HasScratch("routing")) TakePairs();
  if (f.host.HasScratch("router_logits")) {
    logits_ = f.host.Activation("router_logits", f.config.n_routed_experts);
  }
  if (f.device != nullptr) TakeDeviceScratch();
}

void FeedForward::TakeDeviceScratch() {
  if (f_.host.HasScratch("host_part")) host_part_ = f_.host.Scratch("host_part");
  const auto take = [&](cl::Span& span, const char* name) {
    if (f_.device->HasScratch(name)) span = f_.device->Scratch(name);
  };
  take(dgate_, "gate");
  take(dpart_, "device_part");
  take(dlogits_, "router_logits");
  dexperts_ = ExpertMemory(*f_.device);
}

bool FeedForward::Streams(int layer) const {
  const LayerPlan& p = f_.plan.layers[layer];
  if (!f_.stream || f_.T() < f_.plan.stream.rows || !p.router.on_device()) return false;
  const bool shared_on_host = f_.weights.layers[layer].shared.gate && !p.shared.on_device();
  return !shared_on_host && HasHostWork(layer);
}

bool FeedForward::HandsOver(int layer) const {
  const LayerPlan& p = f_.plan.layers[layer];
  const bool host_work = HasHostWork(layer) && !Streams(layer);
  return p.moe && p.router.on_device() && (host_work || HasFurtherPart(layer));
}

// A step with an observer shows the layers one after another, as they are without deferral.
bool FeedForward::Defers(int layer) const {
  return f_.deferral && f_.T() <= kDeferredRows && f_.observer == nullptr &&
         DefersSum(f_.config, f_.plan, layer) && HandsOver(layer) && HandsOver(layer + 1);
}

void FeedForward::Start(int layer) {
  const LayerPlan& p = f_.plan.layers[layer];
  if (!p.moe) return RunDense(layer);
  f_.x.MoveTo(p.router, f_.T());
  p.router.on_device() ? RouteOnDevice(layer) : RouteOnHost(layer);
  if (f_.observer != nullptr) Observe(layer);
}

void FeedForward::Finish(int layer, const std::function<void()>& meanwhile) {
  const LayerPlan& p = f_.plan.layers[layer];
  if (!p.moe) return;
  p.router.on_device() ? FinishFromDevice(layer, meanwhile) : FinishFromHost(layer);
}

void FeedForward::RunDense(int layer) {
  const LayerWeights& w = f_.weights.layers[layer];
  const Config& c = f_.config;
  const Place place = f_.plan.layers[layer].dense;
  f_.x.MoveTo(place, f_.T());
  if (place.on_device()) return MlpOnDevice(w.dense, f_.x.on_device(), &w.post_norm);
  RmsNormOnHost(f_.host, f_.x.host(), c.hidden_size, w.post_norm, f_.h, c.hidden_size, f_.T(),
                c.rms_norm_eps);
  const HostMlp mlp = AllRows(w.dense);
  RunOnHost({&mlp, 1}, f_.x.host(), c.hidden_size);
}

FeedForward::HostMlp FeedForward::AllRows(const MlpWeights& w) const {
  HostMlp mlp;
  mlp.w = &w;
  mlp.T = f_.T();
  return mlp;
}

}  // namespace tandem
