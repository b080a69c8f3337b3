// The device's part of a MoE layer, and dense MLPs on the device.
#include <algorithm>
#include <cstring>
#include <utility>

#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/forward.h"

namespace tandem {
namespace {

std::uint64_t BytesOf(const MlpWeights& w) {
  return w.gate.info->bytes() + w.up.info->bytes() + w.down.info->bytes();
}

}  // namespace

// y += mlp(h), with h the norm of x where one is given.
void FeedForward::MlpOnDevice(const MlpWeights& w, const cl::Span& y, const Vector* norm) {
  const std::int64_t D = f_.config.hidden_size;
  const std::int64_t width = w.gate.rows();
  const std::int64_t T = f_.T();
  cl::Kernels& k = f_.device->kernels;
  cl::LinearArgs up{f_.h_device, D, w.gate.device, dgate_, width, T, false};
  if (norm != nullptr) {
    up.x = f_.x.on_device();
    up.norm = {norm->device, static_cast<float>(f_.config.rms_norm_eps), f_.h_device, D};
  }
  up.w2 = w.up.device;
  up.swiglu = true;
  up.bf16 = f_.plan.bf16_many_rows;
  up.fp8 = f_.plan.f8_many_rows;
  up.work = dexperts_.work;
  k.Linear(up);
  cl::LinearArgs down{dgate_, width, w.down.device, y, D, T, true};
  down.bf16 = up.bf16;
  down.fp8 = up.fp8;
  down.work = dexperts_.work;
  k.Linear(down);
  f_.device->metrics.device_weight_bytes += BytesOf(w);
}

bool FeedForward::HasDevicePart(int layer) const {
  if (f_.device == nullptr) return false;
  const bool shared =
      f_.plan.layers[layer].shared.on_device() && f_.weights.layers[layer].shared.gate;
  return shared || !f_.device_experts->layer(layer).slabs.empty();
}

// y += the shared and the routed experts that are on the device, of h and the choice there.
void FeedForward::EnqueueDevicePart(int layer, const cl::Span& y) {
  const MlpWeights& shared = f_.weights.layers[layer].shared;
  const LayerExperts& experts = f_.device_experts->layer(layer);
  const bool alone = f_.plan.layers[layer].shared.on_device() && shared.gate && !experts.shared;
  if (alone) MlpOnDevice(shared, y, nullptr);
  if (experts.shared) f_.device->metrics.device_weight_bytes += BytesOf(shared);
  if (!experts.slabs.empty() || Streams(layer)) EnqueueExperts(layer, y);
}

// All but the target.
cl::ExpertsArgs FeedForward::ExpertsOf(int layer) const {
  return dexperts_.Experts(f_.config, f_.plan, f_.device_experts->layer(layer), f_.T(), *f_.device);
}

cl::GroupArgs FeedForward::GroupOf(int layer, const cl::ExpertsArgs& a) const {
  return dexperts_.Group(f_.config, f_.device_experts->layer(layer),
                         Streams(layer) ? f_.stream->Table(layer) : a.table, a);
}

// That the router's launch lists the pairs as well.
bool FeedForward::RoutesOneRow(int layer) const {
  return f_.T() == 1 && f_.plan.layers[layer].router.on_device() &&
         !f_.device_experts->layer(layer).slabs.empty();
}

// That its act may be made beside the choice: that comes no sooner, so nobody else may wait for it.
bool FeedForward::SharedNeedsNoChoice(int layer) const {
  return f_.device_experts->layer(layer).shared && !HandsOver(layer) && !Streams(layer);
}

void FeedForward::EnqueueExperts(int layer, const cl::Span& y) {
  cl::Kernels& k = f_.device->kernels;
  cl::ExpertsArgs a = ExpertsOf(layer);
  a.y = y;
  a.shared_made = std::exchange(shared_made_, false);
  if (!RoutesOneRow(layer)) k.Group(GroupOf(layer, a));
  if (!Streams(layer)) return k.Experts(a);
  // Pairs of both kinds lie in one list; their sum comes last.
  a.sum = false;
  if (!a.slabs.empty()) k.Experts(a);
  f_.stream->Run(layer, a);
  k.ExpertCombine({a.pair_out, a.token_pairs, a.T, a.C, a.D, y, a.y_stride});
}

// Nothing to do where the router was on the host: then all is in Finish.
void FeedForward::Enqueue(int layer, const std::function<void()>& ahead) {
  const LayerPlan& p = f_.plan.layers[layer];
  if (!p.moe || !p.router.on_device()) return;
  EnqueueDevicePart(layer, f_.x.on_device());
  if (!HandsOver(layer)) return;
  const bool defers = Defers(layer);
  if (defers) ahead();
  f_.device->hand_over->Take(f_.x.on_device(), f_.config.hidden_size);
  if (!defers) ahead();
  f_.device->device.Flush();
}

// The router was on the device, and so is x. The host's experts run while the device goes on with
// what it was given; nothing waits here where the host has none.
void FeedForward::FinishFromDevice(int layer, const std::function<void()>& meanwhile) {
  if (!HandsOver(layer)) return CountAllPairs(layer);
  HandOver& hand_over = *f_.device->hand_over;
  Receive();
  std::memset(hand_over.sum(), 0,
              static_cast<std::size_t>(f_.T() * f_.config.hidden_size) * sizeof(float));
  RunHostPart(layer, hand_over.sum(), meanwhile);
  hand_over.Deliver();
  CountDevicePairs(layer);
}

// The router was on the host, and x is there.
void FeedForward::FinishFromHost(int layer) {
  const bool device = HasDevicePart(layer);
  if (device) {
    UploadInput();
    EnqueueDevicePart(layer, dpart_);
    f_.device->device.Flush();
  }
  if (HasHostWork(layer) || HasFurtherPart(layer)) {
    RunHostPart(layer, f_.x.host(), nullptr);
  } else {
    SortPairs();
  }
  if (!device) return;
  Join();
  CountDevicePairs(layer);
}

// h and the choice to the device, and zeros where its part goes.
void FeedForward::UploadInput() {
  const ClDevice& device = f_.device->device;
  const std::size_t bytes =
      static_cast<std::size_t>(f_.T() * f_.config.hidden_size) * sizeof(float);
  const std::size_t choice =
      static_cast<std::size_t>(f_.T() * f_.config.num_experts_per_tok) * sizeof(float);
  device.Write(f_.h_device.buffer, 0, f_.h.row(0), bytes);
  if (dexperts_.choice.buffer != nullptr) {
    device.Write(dexperts_.choice.buffer, 0, f_.routing.ids.data(), choice);
    device.Write(dexperts_.choice.buffer, choice, f_.routing.weights.data(), choice);
  }
  device.Zero(dpart_.buffer, 0, bytes);
}

void FeedForward::Join() {
  const std::int64_t n = f_.T() * f_.config.hidden_size;
  const double start = Now();
  f_.device->device.BlockingRead(dpart_.buffer, 0, host_part_.data(),
                                 static_cast<std::size_t>(n) * sizeof(float));
  f_.device->metrics.device_wait_s += Now() - start;
  f_.host.kernels.add({host_part_.data(), f_.x.host(), n});
}

// Of a layer whose choice stays on the device: one row reads as many experts as it chooses; of
// several rows the device alone knows how many are the same.
void FeedForward::CountAllPairs(int layer) {
  const std::int64_t K = f_.config.num_experts_per_tok;
  Metrics& m = f_.device->metrics;
  m.expert_rows_device += f_.T() * K;
  const std::uint64_t expert = BytesOf(f_.weights.layers[layer].experts[0]);
  if (f_.T() == 1) m.device_weight_bytes += static_cast<std::uint64_t>(K) * expert;
}

// Of the layer whose choice the host has; further devices count their own.
void FeedForward::CountDevicePairs(int layer) {
  const std::vector<Place>& experts = f_.plan.layers[layer].experts;
  const LayerWeights& w = f_.weights.layers[layer];
  Metrics& m = f_.device->metrics;
  if (f_.cache && !f_.uncounted) f_.cache->Count(layer, pair_begin_);
  const bool streams = Streams(layer);
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::int64_t n = pair_begin_[e + 1] - pair_begin_[e];
    if (n == 0 || !(streams ? !IsFurther(experts[e]) : f_.OnFirstDevice(layer, e))) continue;
    m.expert_rows_device += n;
    m.device_weight_bytes += BytesOf(w.experts[e]);
  }
}

}  // namespace tandem
