#include "runtime/engine.h"

#include <algorithm>
#include <utility>

#include "memory/cl_check.h"
#include "memory/error.h"
#include "placement/deferral.h"
#include "runtime/engine_impl.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

// Devices beyond the first hold routed experts and nothing else.
void CheckSupported(const Plan& plan) {
  const auto check = [&](const char* what, Place place) {
    if (!IsFurther(place)) return;
    Throw<ConfigError>(
        "the plan puts {} on '{}', its device {}; all but routed experts runs on its first device, "
        "'{}'",
        what, plan.devices.at(static_cast<std::size_t>(place.index)).name, place.index,
        plan.devices[0].name);
  };
  check("the head", plan.head);
  for (const LayerPlan& layer : plan.layers) {
    check("attention", layer.attention);
    check("a dense MLP", layer.dense);
    check("a router", layer.router);
    check("a shared expert", layer.shared);
  }
}

constexpr std::int64_t kManyRows = 40;

// What an opened device cannot change.
bool SameDevice(const PlanDevice& a, const PlanDevice& b) {
  return a.index == b.index && a.name == b.name && a.threads == b.threads;
}

}  // namespace

void Engine::Closer::operator()(Impl* impl) const noexcept {
  if (!impl->Hangs()) delete impl;
}

void Engine::Impl::MoveWeights(ProgressSink* progress) {
  const bool fresh = !weights || !(cut == RowCut(plan));
  ClDevices on;
  for (const auto& device : devices) on.push_back(&device->device);
  if (!fresh) return weights->Move(plan, on, progress);
  weights.reset();  // before the others come
  weights = std::make_unique<Weights>(model, plan, on, progress);
  cut.emplace(plan);
}

std::vector<DeviceSide*> Engine::Impl::sides() const {
  std::vector<DeviceSide*> list;
  for (const auto& device : devices) list.push_back(device.get());
  return list;
}

void Engine::Impl::OpenDevices() {
  CheckSupported(plan);
  for (const auto& device : devices) {
    device->WatchLoad();
    device->AllocateScratch({});  // room for what comes
  }
  for (std::size_t d = devices.size(); d < plan.devices.size(); ++d) {
    devices.push_back(std::make_unique<DeviceSide>(plan.devices[d]));
  }
}

void Engine::Impl::Start(ProgressSink* progress) {
  try {
    OpenDevices();
    MoveWeights(progress);
    devices.resize(plan.devices.size());
    running = std::make_unique<Running>(model, plan, *weights, sides());
  } catch (...) {
    for (const auto& device : devices) {
      device->device.Drain(DrainWatchdog());  // half a test may be in its queue
    }
    weights.reset();  // half of one plan and half of another
    for (const auto& device : devices) device->AllocateScratch({});
    throw;
  }
}

Engine::Engine(Model model, Plan plan, ProgressSink* progress)
    : impl_(new Impl(std::move(model), std::move(plan))) {
  impl_->Start(progress);
  WarmUp(progress);
  ProbeDeferral(progress);
}

void Engine::Impl::CheckMove(const Plan& next) const {
  CheckSupported(next);
  if (Run().blocks.in_use() > 0) {
    throw UsageError("an engine with sequences cannot go over to another plan: free them first");
  }
  if (next.layers.size() != plan.layers.size()) {
    Throw<UsageError>("a plan for {} layers; the engine's model has {}", next.layers.size(),
                      plan.layers.size());
  }
  for (std::size_t d = 0; d < std::min(plan.devices.size(), next.devices.size()); ++d) {
    if (SameDevice(plan.devices[d], next.devices[d])) continue;
    Throw<UsageError>("'{}' is open; its place or its threads cannot change while it is",
                      plan.devices[d].name);
  }
}

void Engine::Apply(const Plan& next, ProgressSink* progress) {
  Impl& s = *impl_;
  s.CheckMove(next);
  s.CancelAhead();
  const Plan before = std::exchange(s.plan, next);
  s.running.reset();
  try {
    s.Start(progress);
  } catch (const std::exception& failure) {
    s.plan = before;
    s.Start(nullptr);  // all of it is read again; if this fails too, the engine is gone
    WarmUp(nullptr);
    ProbeDeferral(nullptr);
    throw;
  }
  WarmUp(progress);
  ProbeDeferral(progress);
  ResetMetrics();
}

void Engine::Recover() {
  Impl& s = *impl_;
  if (s.devices.empty()) throw UsageError("the engine runs no device: there is none to recover");
  std::vector<ClDeviceInfo> infos;
  for (const auto& device : s.devices) {
    infos.push_back(device->device.info());
    if (!device->device.Hangs()) continue;
    Throw<DeviceLostError>("'{}' hangs: this process cannot free it; end it and start again",
                           infos.back().name);
  }
  s.running.reset();
  s.weights->ForgetDevices();
  s.devices.clear();
  for (const ClDeviceInfo& info : infos) {
    const std::string problem = CheckClDeviceInChild(info, kDeviceCheckLimit);
    if (!problem.empty()) Throw<DeviceLostError>("'{}': {}", info.name, problem);
  }
  s.Start(nullptr);
}

// PoCL compiles a kernel when it is first enqueued with a work-group size: seconds that belong to
// loading, not to the first token. Two steps reach the forms for few and for many rows.
void Engine::WarmUp(ProgressSink* progress) {
  const auto shares = [](const PlanDevice& device) { return device.shares_cores; };
  if (std::ranges::none_of(impl_->plan.devices, shares)) return;
  if (progress != nullptr) progress->Begin("compiling kernels", 0);
  for (const std::int64_t wanted : {std::int64_t{1}, kManyRows}) {
    const std::int64_t n = std::min(
        {wanted, impl_->plan.max_rows, FreeTokens(), impl_->model.config.max_position_embeddings});
    const std::int32_t s = NewSequence();
    std::vector<Row> rows;
    for (std::int32_t i = 0; i < n; ++i) rows.push_back({s, i, 0, i + 1 == n});
    Step(rows);
    FreeSequence(s);
  }
  ResetMetrics();
  if (progress != nullptr) progress->End();
}

// Deferral changes what the model computes, so nobody gets it without being told by how much.
void Engine::ProbeDeferral(ProgressSink* progress) {
  Impl& s = *impl_;
  s.deferral.reset();
  s.defers = false;
  if (DeferredLayers(s.model.config, s.plan) == 0) return;
  if (progress != nullptr) progress->Begin("measuring what deferral changes", 0);
  std::vector<std::int32_t> tokens = DeferralTokens(s.model);
  const std::int64_t room = std::min(FreeTokens(), s.model.config.max_position_embeddings);
  tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(room)));
  try {
    s.probes = true;
    s.deferral = MeasureDeferral(
        *this, tokens, [&](bool defer) { s.defers = defer; },
        [&] {
          if (progress == nullptr || !progress->Cancelled()) return;
          throw Error(ExitCode::kIo, "loading was interrupted");
        });
  } catch (...) {
    s.probes = s.defers = false;
    throw;
  }
  s.probes = false;
  ResetMetrics();
  if (progress != nullptr) progress->End();
  fmt::print(stderr, "tandem: {}\n", ToText(*s.deferral));
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

}  // namespace tandem
