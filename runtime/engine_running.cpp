// What steps need beside the weights: scratch memory, kernels, the way between the device and the
// team.
#include "memory/blocks.h"
#include "memory/error.h"
#include "placement/scratch.h"
#include "runtime/engine_impl.h"
#include "runtime/self_test.h"

namespace tandem {
namespace {

std::optional<HandOverKind> KindOf(HandOverWay way) {
  if (way == HandOverWay::kAuto) return std::nullopt;
  return way == HandOverWay::kPolled ? HandOverKind::kPolled : HandOverKind::kEvents;
}

void AllocateScratch(const Config& config, const Plan& plan, std::span<DeviceSide* const> devices) {
  for (int d = 0; d < static_cast<int>(devices.size()); ++d) {
    devices[d]->AllocateScratch(DeviceScratch(config, plan, UseOf(plan, Place::Device(d))));
  }
}

// Of experts of the host that come to the first device, to the cache or in a stream.
void AddCopiedFormats(const Weights& weights, const Plan& plan, DeviceSide& device,
                      std::vector<DType>& formats) {
  const auto add = [&](DType format) {
    if (std::ranges::find(formats, format) == formats.end()) formats.push_back(format);
  };
  for (const LayerWeights& w : weights.layers) {
    if (plan.cache.slots == 0 || w.experts.empty()) continue;
    for (const Matrix* m : {&w.experts[0].gate, &w.experts[0].up, &w.experts[0].down}) {
      if (IsBlockFormat(m->dtype())) device.kernels.PreparePanels(m->dtype());
      add(m->dtype());
    }
  }
  for (const LayerWeights& w : weights.layers) {
    if (!plan.stream_prefill || w.experts.empty()) continue;
    for (const Matrix* m : {&w.experts[0].gate, &w.experts[0].down}) {
      if (IsBlockFormat(m->dtype())) device.kernels.PreparePanels(m->dtype());
      add(IsBlockFormat(m->dtype()) ? DType::kBF16 : m->dtype());
    }
  }
}

// `index`: of the device in the plan.
void PrepareKernels(const Weights& weights, const Plan& plan, int index, DeviceSide& device) {
  std::vector<DType> formats = weights.DeviceFormats(Place::Device(index));
  if (index == 0) AddCopiedFormats(weights, plan, device, formats);
  // A KV cache in q8_0 is the host's; the device has no program for it.
  const bool on_host = plan.kv_type == DType::kQ8_0;
  device.kernels.Prepare(formats, on_host ? DType::kF16 : plan.kv_type, plan.bf16_many_rows,
                         plan.f8_many_rows);
  SelfTestScope scope = ScopeOf(weights, plan, index, formats);
  scope.feed = StepsAhead(plan);
  SelfTestOnce(device.kernels, scope, cl::DefaultCacheDir());
}

// That not all of a MoE layer whose router is on the first device is there.
bool LeavesFirstDevice(const LayerPlan& layer) {
  const auto elsewhere = [](Place place) { return place != Place::Device(0); };
  return layer.moe && layer.router.on_device() &&
         (layer.SharedOnHost() || std::ranges::any_of(layer.experts, elsewhere));
}

}  // namespace

Engine::Running::Running(const Model& model, const Plan& plan, const Weights& weights,
                         std::span<DeviceSide* const> devices)
    : host((AllocateScratch(model.config, plan, devices), plan), model.config),
      blocks(plan.kv_blocks, plan.max_sequences),
      forward(model.config, plan, weights, host, devices),
      decoder(forward) {
  for (int d = 0; d < static_cast<int>(devices.size()); ++d) {
    PrepareKernels(weights, plan, d, *devices[d]);
  }
  if (devices.empty()) return;
  MakeHandOver(model.config, plan, *devices[0]);
  MakeFeed(model.config, plan, *devices[0]);
}

void Engine::Running::MakeFeed(const Config& c, const Plan& plan, DeviceSide& device) {
  if (!StepsAhead(plan)) return;
  feed = StepFeed::Make(device.device, device.kernels, StepFeedShape(c, plan),
                        device.Scratch("step feed").buffer);
  if (!feed && plan.step_ahead == StepAheadWish::kOn) {
    Throw<OpenClError>(
        "'{}' has no memory that the host and a running kernel both see, which 'step_ahead': on "
        "needs; set it to auto or off",
        device.device.info().name);
  }
  forward.feed = feed.get();
}

void Engine::Running::MakeHandOver(const Config& c, const Plan& plan, DeviceSide& device) {
  device.hand_over.reset();
  if (c.n_routed_experts == 0) return;
  hand_over_shape = {c.hidden_size, c.num_experts_per_tok, plan.max_rows};
  device.hand_over =
      tandem::MakeHandOver(device.device, device.kernels, hand_over_shape, KindOf(plan.hand_over));
  polls = device.hand_over->kind() == HandOverKind::kPolled;
  hands_over = std::ranges::any_of(plan.layers, LeavesFirstDevice);
  if (plan.cache.slots > 0) {
    forward.cache.emplace(plan, forward.weights, host, device, *forward.device_experts);
  }
  if (plan.stream_prefill) forward.stream.emplace(plan, forward.weights, host, device);
}

}  // namespace tandem
