#include "runtime/engine.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "memory/cl_check.h"
#include "memory/error.h"
#include "placement/deferral.h"
#include "placement/model_sizes.h"
#include "placement/scratch.h"
#include "runtime/clock.h"
#include "runtime/decoder.h"
#include "runtime/hand_over_events.h"
#include "runtime/measure_hand_over.h"
#include "runtime/self_test.h"
#include "runtime/watchdog.h"
#include "runtime/weight_layout.h"

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

std::string Join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& p : parts) out += (out.empty() ? "" : ", ") + p;
  return out;
}

std::optional<HandOverKind> KindOf(HandOverWay way) {
  if (way == HandOverWay::kAuto) return std::nullopt;
  return way == HandOverWay::kPolled ? HandOverKind::kPolled : HandOverKind::kEvents;
}

std::int64_t SequencesOf(std::span<const Row> rows) {
  std::int64_t changes = 1;  // rows of one sequence follow each other, or are one each
  for (std::size_t i = 1; i < rows.size(); ++i) {
    changes += rows[i].sequence != rows[i - 1].sequence ? 1 : 0;
  }
  return changes;
}

// What an opened device cannot change.
bool SameDevice(const PlanDevice& a, const PlanDevice& b) {
  return a.index == b.index && a.name == b.name && a.threads == b.threads;
}

}  // namespace

// What steps need beside the weights; built anew for every plan.
struct Engine::Running {
  Running(const Model& model, const Plan& plan, const Weights& weights,
          std::span<DeviceSide* const> devices)
      : host((AllocateScratch(model.config, plan, devices), plan), model.config),
        blocks(plan.kv_blocks, plan.max_sequences),
        forward(model.config, plan, weights, host, devices),
        decoder(forward) {
    for (int d = 0; d < static_cast<int>(devices.size()); ++d) {
      PrepareKernels(weights, plan, d, *devices[d]);
    }
    if (!devices.empty()) MakeHandOver(model.config, plan, *devices[0]);
  }

  void MakeHandOver(const Config& c, const Plan& plan, DeviceSide& device) {
    device.hand_over.reset();
    if (c.n_routed_experts == 0) return;
    hand_over_shape = {c.hidden_size, c.num_experts_per_tok, plan.max_rows};
    device.hand_over = tandem::MakeHandOver(device.device, device.kernels, hand_over_shape,
                                            KindOf(plan.hand_over));
    if (plan.cache.slots > 0) {
      forward.cache.emplace(plan, forward.weights, host, device, *forward.device_experts);
    }
    if (plan.stream_prefill) forward.stream.emplace(plan, forward.weights, host, device);
  }

  static void AllocateScratch(const Config& config, const Plan& plan,
                              std::span<DeviceSide* const> devices) {
    for (int d = 0; d < static_cast<int>(devices.size()); ++d) {
      devices[d]->AllocateScratch(DeviceScratch(config, plan, UseOf(plan, Place::Device(d))));
    }
  }

  // `index`: of the device in the plan.
  static void PrepareKernels(const Weights& weights, const Plan& plan, int index,
                             DeviceSide& device) {
    std::vector<DType> formats = weights.DeviceFormats(Place::Device(index));
    if (index == 0) AddCopiedFormats(weights, plan, device, formats);
    // A KV cache in q8_0 is the host's; the device has no program for it.
    const bool on_host = plan.kv_type == DType::kQ8_0;
    device.kernels.Prepare(formats, on_host ? DType::kF16 : plan.kv_type, plan.bf16_many_rows);
    SelfTestOnce(device.kernels, ScopeOf(weights, plan, index, formats), cl::DefaultCacheDir());
  }

  // Of experts of the host that come to the first device, to the cache or in a stream.
  static void AddCopiedFormats(const Weights& weights, const Plan& plan, DeviceSide& device,
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

  HostSide host;
  KvBlocks blocks;
  Forward forward;
  Decoder decoder;
  HandOverShape hand_over_shape;
};

struct Engine::Impl {
  Impl(Model m, Plan p) : model(std::move(m)), inv_freq(model.config.inv_freq()) {
    plan = std::move(p);
  }

  // Obeys `plan`: loads, or goes over from what is there. `running` must be gone.
  void Start(ProgressSink* progress);
  void OpenDevices();
  void MoveWeights(ProgressSink* progress);
  void CheckMove(const Plan& next) const;
  Running& Run() const {
    if (running) return *running;
    throw Error(ExitCode::kInternal,
                "the engine is gone: it could not go over to another plan, or lost its device");
  }

  void CheckRows(std::span<const Row> rows, bool sink) const;
  void AppendRows(std::span<const Row> rows);
  void Prepare(std::span<const Row> rows);
  std::span<const float> Step(std::span<const Row> rows, StepObserver* observer,
                              const LogitsSink* sink, bool greedy);
  std::span<const float> RunStep(Running& r);
  void Watch(std::size_t rows) const;
  void EndFailedStep() noexcept;
  void CopyBlocks(const std::vector<KvBlocks::Copy>& copies);

  Model model;
  Plan plan;
  DeviceSide* first() const { return devices.empty() ? nullptr : devices[0].get(); }
  std::vector<DeviceSide*> sides() const;
  bool Hangs() const {
    return std::ranges::any_of(devices, [](const auto& d) { return d->device.Hangs(); });
  }
  std::vector<std::unique_ptr<DeviceSide>> devices;  // as in the plan
  std::unique_ptr<Weights> weights;
  std::optional<RowCut> cut;  // of the weights on the host
  std::vector<double> inv_freq;
  std::unique_ptr<Running> running;
  mutable Metrics metrics;
  bool defers = false;  // steps from now on
  bool probes = false;
  std::optional<DeferralEffect> deferral;
};

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

std::int32_t Engine::NewSequence() { return impl_->Run().blocks.New(); }
void Engine::FreeSequence(std::int32_t sequence) { impl_->Run().blocks.Free(sequence); }
std::int32_t Engine::Fork(std::int32_t sequence, std::int64_t tokens) {
  return impl_->Run().blocks.Fork(sequence, tokens);
}
void Engine::Truncate(std::int32_t sequence, std::int64_t tokens) {
  impl_->Run().blocks.Truncate(sequence, tokens);
}
std::int64_t Engine::Length(std::int32_t sequence) const {
  return impl_->Run().blocks.Length(sequence);
}
std::int64_t Engine::FreeTokens() const { return impl_->Run().blocks.free_blocks() * kKvBlock; }

// Everything that can be wrong with a step is found here, before anything changes.
void Engine::Impl::CheckRows(std::span<const Row> rows, bool sink) const {
  const KvBlocks& blocks = Run().blocks;
  if (rows.empty()) throw UsageError("a step needs at least one row");
  if (static_cast<std::int64_t>(rows.size()) > plan.max_rows) {
    Throw<UsageError>("a step of {} rows; the plan allows {} (workload.chunk)", rows.size(),
                      plan.max_rows);
  }
  std::unordered_map<std::int32_t, std::int64_t> count;
  for (const Row& row : rows) {
    if (!blocks.Known(row.sequence)) Throw<UsageError>("sequence {} does not exist", row.sequence);
    const std::int64_t expected = blocks.Length(row.sequence) + count[row.sequence]++;
    if (row.position != expected) {
      Throw<UsageError>("sequence {}: position {} given, {} comes next", row.sequence, row.position,
                        expected);
    }
    if (row.token < 0 || row.token >= model.config.vocab_size) {
      Throw<UsageError>("token id {} is outside the vocabulary of {}", row.token,
                        model.config.vocab_size);
    }
    if (row.position >= model.config.max_position_embeddings) {
      Throw<UsageError>("position {} is beyond the model's max_position_embeddings {}",
                        row.position, model.config.max_position_embeddings);
    }
  }
  const std::int64_t wanted = std::ranges::count_if(rows, &Row::wants_logits);
  if (!sink && wanted > LogitRows(plan)) {
    Throw<UsageError>("{} rows want logits; a step returns at most {}, a sink takes more", wanted,
                      LogitRows(plan));
  }
  std::int64_t needed = 0;
  for (const auto& [sequence, n] : count) needed += blocks.BlocksFor(sequence, n);
  if (needed > blocks.free_blocks()) {
    Throw<UsageError>(
        "the KV cache is full: the step needs {} blocks of {} tokens, {} are free of "
        "{}; raise workload.context (--ctx) or free a sequence",
        needed, kKvBlock, blocks.free_blocks(), plan.kv_blocks);
  }
}

void Engine::Impl::AppendRows(std::span<const Row> rows) {
  std::vector<KvBlocks::Copy> copies;
  for (const Row& row : rows) running->blocks.Append(row.sequence, 1, copies);
  if (!copies.empty()) CopyBlocks(copies);
}

void Engine::Impl::CopyBlocks(const std::vector<KvBlocks::Copy>& copies) {
  const std::size_t bytes = KvLayerBytes(model.config, 1, plan.kv_type);
  for (const KvStore& store : running->forward.kv) {
    for (const KvBlocks::Copy& copy : copies) {
      if (store.device) {
        first()->device.Copy(store.device.get(), copy.from * bytes, store.device.get(),
                             copy.to * bytes, bytes);
      } else {
        std::copy_n(store.host.data() + copy.from * bytes, bytes,
                    store.host.data() + copy.to * bytes);
      }
    }
  }
}

std::span<const float> Engine::Impl::RunStep(Running& r) {
  HandOver* hand_over = first() != nullptr ? first()->hand_over.get() : nullptr;
  if (hand_over != nullptr) hand_over->BeginStep(r.forward.T());
  const std::span<const float> logits = r.decoder.Step();
  if (hand_over != nullptr) hand_over->EndStep();
  return logits;
}

void Engine::Impl::Watch(std::size_t rows) const {
  for (const auto& device : devices) {
    device->device.Watch(WatchdogOf(static_cast<std::int64_t>(rows), device->device.info()),
                         fmt::format("a step of {} rows", rows));
  }
}

// A failure on the way leaves the devices' queues drained, not waiting for sums that never come,
// and not writing to memory that its owner may free. The sums come first: drivers wait for a queue
// before they free memory.
void Engine::Impl::EndFailedStep() noexcept {
  for (const auto& device : devices) {
    if (device->hand_over) device->hand_over->Abandon();
    device->device.Drain(DrainWatchdog());
  }
}

void Engine::Impl::Prepare(std::span<const Row> rows) {
  AppendRows(rows);
  Batch& batch = running->forward.batch;
  FillBatch(batch, rows, running->blocks, inv_freq, model.config.rope_attention_factor());
  if (first() != nullptr && first()->HasScratch("batch")) first()->Upload(batch);
}

std::span<const float> Engine::Step(std::span<const Row> rows, StepObserver* observer,
                                    const LogitsSink* sink) {
  return impl_->Step(rows, observer, sink, /*greedy=*/false);
}

std::span<const std::int32_t> Engine::StepGreedy(std::span<const Row> rows) {
  impl_->Step(rows, nullptr, nullptr, /*greedy=*/true);
  return impl_->running->decoder.greedy();
}

std::span<const float> Engine::Impl::Step(std::span<const Row> rows, StepObserver* observer,
                                          const LogitsSink* sink, bool greedy) {
  CheckRows(rows, sink != nullptr);
  const double start = Now();
  Running& r = *running;
  const WorkerPool::CallerPin pin(r.host.pool);
  r.forward.observer = observer;
  r.forward.sink = sink;
  r.forward.greedy = greedy;
  r.forward.deferral = defers;
  r.forward.uncounted = probes;
  Watch(rows.size());
  std::span<const float> logits;
  try {
    Prepare(rows);
    logits = RunStep(r);
  } catch (...) {
    EndFailedStep();
    throw;
  }
  metrics.Count(rows.size(), SequencesOf(rows), Now() - start);
  return logits;
}

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
  }
  return m;
}

void Engine::ResetMetrics() {
  impl_->metrics = {};
  impl_->Run().host.metrics = {};
  for (const auto& device : impl_->devices) device->metrics = {};
  if (impl_->Run().forward.stream) impl_->Run().forward.stream->ResetCounts();
}

double Engine::MeasureHandOver() {
  const auto hands_over = [](const LayerPlan& layer) {
    const auto elsewhere = [](Place place) { return place != Place::Device(0); };
    return layer.moe && layer.router.on_device() && std::ranges::any_of(layer.experts, elsewhere);
  };
  if (std::ranges::none_of(impl_->plan.layers, hands_over)) return 0;
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
    if (store.device) bytes.devices[0].kv += store.device.bytes();
  }
  bytes.host_scratch = s.Run().host.scratch_bytes();
  if (s.devices.empty()) return bytes;
  if (const auto& hand_over = s.first()->hand_over) {
    const HandOverShape shape = s.Run().hand_over_shape;
    const bool polls = hand_over->kind() == HandOverKind::kPolled;
    bytes.host_scratch += polls ? HandOverHostBytes(shape) : EventHandOverHostBytes(shape);
    bytes.devices[0].scratch +=
        polls ? HandOverDeviceBytes(shape) : EventHandOverDeviceBytes(shape);
  }
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
  for (const auto& device : impl_->devices) {
    const std::vector<std::string>& refusals = device->kernels.refusals();
    warnings.insert(warnings.end(), refusals.begin(), refusals.end());
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
