// What the engine says of itself: counters, bytes, and where things are.
#include <fmt/format.h>

#include <algorithm>

#include "placement/scratch.h"
#include "placement/step_feed_shape.h"
#include "runtime/engine_impl.h"
#include "runtime/hand_over_events.h"
#include "runtime/measure_hand_over.h"

namespace tandem {
namespace {

std::string Join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& p : parts) out += (out.empty() ? "" : ", ") + p;
  return out;
}

}  // namespace

const DeferralEffect* Engine::deferral() const {
  return impl_->deferral ? &*impl_->deferral : nullptr;
}

const Config& Engine::config() const { return impl_->model.config; }
const Plan& Engine::plan() const { return impl_->plan; }
const Model& Engine::model() const { return impl_->model; }

const Metrics& Engine::metrics() const {
  Metrics& m = impl_->metrics;
  const Metrics& host = impl_->Run().host.metrics;
  m.host_moe_s = host.host_moe_s;
  m.expert_rows_host = host.expert_rows_host;
  m.host_weight_bytes = host.host_weight_bytes;
  m.loaded_bytes = impl_->weights->loaded_bytes();
  m.load_s = impl_->weights->load_s();
  m.device_wait_s = 0;
  m.expert_rows_device = 0;
  m.device_weight_bytes = 0;
  for (const auto& device : impl_->devices) {
    m.device_wait_s += device->metrics.device_wait_s;
    m.expert_rows_device += device->metrics.expert_rows_device;
    m.device_weight_bytes += device->metrics.device_weight_bytes;
  }
  if (impl_->first() != nullptr) {
    const Metrics& device = impl_->first()->metrics;
    m.cache_pairs = device.cache_pairs;
    m.cache_hits = device.cache_hits;
    m.cache_moved_bytes = device.cache_moved_bytes;
    m.cache_admissions = device.cache_admissions;
    m.cache_evictions = device.cache_evictions;
    if (impl_->Run().forward.cache) m.cache_off = impl_->Run().forward.cache->off();
  }
  if (const auto& stream = impl_->Run().forward.stream) {
    m.streamed_bytes = stream->moved_bytes();
    m.stream_s = stream->seconds();
    m.stream_in_place = stream->in_place();
  }
  return m;
}

bool Engine::steps_ahead() const { return impl_->Run().feed != nullptr; }

void Engine::ResetMetrics() {
  impl_->metrics = {};
  impl_->Run().host.metrics = {};
  for (const auto& device : impl_->devices) device->metrics = {};
  if (impl_->Run().forward.stream) impl_->Run().forward.stream->ResetCounts();
}

double Engine::MeasureHandOver() {
  if (!impl_->Run().hands_over) return 0;
  impl_->CancelAhead();
  DeviceSide& device = *impl_->first();
  return tandem::MeasureHandOver(device, *device.hand_over, impl_->Run().hand_over_shape);
}

EngineBytes Engine::bytes() const {
  const Impl& s = *impl_;
  EngineBytes bytes;
  bytes.host_weights = s.weights->host_bytes();
  for (int d = 0; d < static_cast<int>(s.devices.size()); ++d) {
    bytes.devices.push_back({s.weights->device_bytes(d), 0, s.devices[d]->scratch_bytes()});
  }
  for (const KvStore& store : s.Run().forward.kv) {
    bytes.host_kv += store.host.bytes();
    for (const ClBuffer& buffer : store.device) bytes.devices[0].kv += buffer.bytes();
  }
  bytes.host_scratch = s.Run().host.scratch_bytes();
  if (s.devices.empty()) return bytes;
  if (s.first()->hand_over) {
    const HandOverShape shape = s.Run().hand_over_shape;
    const bool polls = s.Run().polls;  // not kind(), which is that of the last step
    bytes.host_scratch += polls ? HandOverHostBytes(shape) : EventHandOverHostBytes(shape);
    bytes.devices[0].scratch +=
        polls ? HandOverDeviceBytes(shape) : EventHandOverDeviceBytes(shape);
  }
  if (const auto& feed = s.Run().feed) bytes.host_scratch += feed->bytes();
  for (const auto& device : s.Run().forward.further) bytes.host_scratch += device->host_bytes();
  if (s.Run().forward.stream) {
    bytes.host_scratch +=
        kStreamPieces * kStreamPieceBytes + kStreamTileReads * StreamTileBytes(s.plan);
  }
  if (s.Run().forward.cache) bytes.host_scratch += s.Run().forward.cache->host_bytes();
  return bytes;
}

std::vector<std::string> Engine::Warnings() const {
  std::vector<std::string> warnings;
  if (impl_->plan.step_ahead == StepAheadWish::kOn && !impl_->Run().feed) {
    warnings.emplace_back(
        "step_ahead: on has no effect: not everything but experts runs on one OpenCL device");
  }
  for (const auto& device : impl_->devices) {
    std::string shapes = WarningOf(device->kernels.shapes());
    if (!shapes.empty()) warnings.push_back(std::move(shapes));
    const std::vector<std::string>& refusals = device->kernels.refusals();
    warnings.insert(warnings.end(), refusals.begin(), refusals.end());
    if (impl_->plan.f8_many_rows && !device->kernels.RoundsFp8()) {
      warnings.push_back(
          fmt::format("activations.device: f8 has no effect on '{}': it has matrix units but "
                      "none for e4m3 (compute capability 8.9); inputs of many rows are rounded to "
                      "bf16",
                      device->device.info().name));
    }
  }
  return warnings;
}

std::string Engine::Describe() const {
  const Plan& p = impl_->plan;
  std::vector<std::int64_t> on_device(p.devices.size());
  std::int64_t experts = 0;
  std::int64_t attention = 0;
  for (const LayerPlan& layer : p.layers) {
    attention += layer.attention.on_device() ? 1 : 0;
    experts += static_cast<std::int64_t>(layer.experts.size());
    for (std::size_t d = 0; d < on_device.size(); ++d) {
      on_device[d] += std::ranges::count(layer.experts, Place::Device(static_cast<int>(d)));
    }
  }
  std::vector<std::string> parts;
  for (std::size_t d = 0; d < on_device.size(); ++d) {
    const std::string held = fmt::format("{}/{} experts", on_device[d], experts);
    parts.push_back(d > 0 ? fmt::format("{}: {}", p.devices[d].name, held)
                          : fmt::format("{}: attention of {}/{} layers and {}", p.devices[d].name,
                                        attention, p.layers.size(), held));
  }
  parts.push_back(
      fmt::format("CPU: {} ({} threads, {})", p.devices.empty() ? "everything" : "the rest",
                  impl_->Run().host.pool.size(), cpu::Name(impl_->Run().host.kernels.isa)));
  return Join(parts);
}

}  // namespace tandem
