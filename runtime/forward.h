#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "memory/cl_in_place.h"
#include "model/config.h"
#include "placement/plan.h"
#include "runtime/batch.h"
#include "runtime/device_experts.h"
#include "runtime/device_side.h"
#include "runtime/engine.h"
#include "runtime/expert_cache.h"
#include "runtime/expert_device.h"
#include "runtime/expert_launch.h"
#include "runtime/expert_stream.h"
#include "runtime/host_side.h"
#include "runtime/step_feed.h"
#include "runtime/weights.h"

namespace tandem {

// Legend for the shapes below: T rows of the step, D hidden_size, H heads, R kv_lora_rank,
// E experts, K experts per token, F moe_intermediate_size, V vocab_size.

// Values [T, D] that live on one side at a time. Moving is explicit, so that every transfer of a
// step can be read off the code.
class Residual {
 public:
  // On the host's and the device's scratch "x"; the device has none if nothing there needs it.
  Residual(std::int64_t width, HostSide& host, DeviceSide* device);

  float* host();                      // must be there: MoveToHost, or written there
  const cl::Span& on_device() const;  // must be there
  bool is_on_device() const { return on_device_; }
  void MoveTo(Place place, std::int64_t T);
  void SetOnHost() { on_device_ = false; }
  void SetOnDevice() { on_device_ = true; }
  float* host_memory() const { return memory_; }

 private:
  std::int64_t width_;
  DeviceSide* device_;  // non-owning; null without a device
  float* memory_;
  cl::Span span_;
  ClInPlace locked_;  // host memory of x
  bool on_device_ = false;
};

// The KV cache of one layer: [blocks * 64, kv_width] in kv_type, at the layer's attention place; on
// a device in as many buffers as the batch has kv_parts.
struct KvStore {
  HostBuffer host;
  std::vector<ClBuffer> device;
};

// The routed experts of the rows of one layer, as the host sees them.
struct Routing {                // in one buffer, the weights behind the ids
  std::span<std::int32_t> ids;  // [T, K]
  std::span<float> weights;     // [T, K]
};

// Everything that the parts of the forward pass share. Built once; a step fills batch and x.
struct Forward {
  Forward(const Config& config, const Plan& plan, const Weights& weights, HostSide& host,
          std::span<DeviceSide* const> devices);

  const Config& config;
  const Plan& plan;
  const Weights& weights;
  HostSide& host;
  DeviceSide* device;  // the plan's first; null: a plan without one
  std::optional<DeviceExperts> device_experts;
  std::vector<std::unique_ptr<ExpertDevice>> further;  // Place::Device(1) and up
  std::optional<ExpertStream> stream;                  // where the plan streams
  std::optional<ExpertCache> cache;                    // where the plan has one

  StepFeed* feed = nullptr;  // non-owning; null where steps are not fed

  std::vector<KvStore> kv;  // per layer
  Batch batch;
  Residual x;         // [T, D] the residual stream
  HostActivation h;   // [T, D] normed input of a block, host side
  cl::Span h_device;  // the same, device side
  Routing routing;
  StepObserver* observer = nullptr;
  const LogitsSink* sink = nullptr;  // null: the step returns its logits
  bool greedy = false;               // the step returns the largest logits' ids only
  bool deferral = false;             // of the CPU's sums, in this step (placement/deferral.h)
  bool uncounted = false;            // the step is not the user's: the cache does not see it

  std::int64_t T() const { return batch.T; }
  // Whether an expert runs on the first device, or on any, in this step.
  bool OnFirstDevice(int layer, std::size_t expert) const {
    return plan.layers[static_cast<std::size_t>(layer)].experts[expert] == Place::Device(0) ||
           (cache && cache->Holds(layer, expert));
  }
  bool OnDevice(int layer, std::size_t expert) const {
    return plan.layers[static_cast<std::size_t>(layer)].experts[expert].on_device() ||
           (cache && cache->Holds(layer, expert));
  }
  DType kv_type() const { return plan.kv_type; }
};

class HostLayerBench;  // runtime/measure_layer.h: times the host's parts of a layer
class MlaOnHost;       // runtime/mla_host.h

// x += attention(rmsnorm(x)) of one layer, at the plan's place, appending to its KV cache.
class Attention {
 public:
  explicit Attention(Forward& f);
  ~Attention();
  void Run(int layer);

 private:
  friend class HostLayerBench;
  void PrepareHost();
  void RunOnHost(int layer);
  void ProjectOnHost(int layer);  // q and this step's KV rows
  void AppendOnHost(int layer);   // norms, rope, KV cache
  void AttendOnHost(int layer);   // scores and outputs of all heads
  void MhaOnHost(int layer);
  // attention_device.cpp, mla_device.cpp: only enqueue
  void RunOnDevice(int layer);
  void MhaOnDevice(int layer);
  void AttendMha(int layer, cl::AttentionArgs& args);
  void MlaOnDevice(int layer);
  void ProjectMla(int layer);
  std::int64_t MlaRunEnd(std::int64_t t0) const;
  bool AppendsWithQuery() const;
  cl::MlaAppendArgs MlaAppendOf(int layer, std::size_t part) const;
  void AbsorbedMla(int layer, std::int64_t t0, std::int64_t T);
  std::vector<std::int64_t>& MlaRuns(std::int64_t t0, std::int64_t T);
  cl::MlaExpandedArgs MlaExpandedOf(int layer, std::size_t part, std::int64_t t0,
                                    std::int64_t T) const;

  Forward& f_;
  HostActivation q_, q_a_, z_, out_;  // host
  std::unique_ptr<MlaOnHost> mla_;    // host
  std::vector<std::int64_t> mla_runs_;
  cl::Span dq_, dq_a_, dq_a_normed_, dz_, dabsorbed_, dparts_, dlse_, dout_, work_;  // device
};

// x += mlp(rmsnorm(x)) of a dense layer; x += shared(h) + routed experts(h) of a MoE layer, with
// the device's part and the host's part at the same time.
class FeedForward {
 public:
  explicit FeedForward(Forward& f);
  // In parts, so that a device has the next layer's work before the host waits for this one's.
  // Start goes as far as the choice of experts. Enqueue gives the device its part and what adds the
  // host's sum; `ahead` is called once, before that sum where it is deferred and else after it, and
  // may start the next layer if that only enqueues. Finish does the rest; it calls `meanwhile`
  // once, on this thread, while the team computes where it does.
  void Start(int layer);
  void Enqueue(int layer, const std::function<void()>& ahead);
  void Finish(int layer, const std::function<void()>& meanwhile);
  // Whether the host's sum is added after the next layer's attention and choice, in this step.
  bool Defers(int layer) const;
  // Whether the layer passes between the device and the team in this step, and whether the host's
  // experts go to the device instead.
  bool HandsOver(int layer) const;
  bool Streams(int layer) const;

 private:
  friend class HostLayerBench;
  // An MLP with the rows that it serves: a dense or shared one all of them, an expert its pairs.
  struct HostMlp {
    const MlpWeights* w = nullptr;
    std::int64_t T = 0;
    const std::int32_t* rows = nullptr;  // [T] rows of h, null: 0..T-1
    const float* row_weights = nullptr;  // [T], null: 1
    std::int64_t act0 = 0;               // first element in act_
  };

  void TakeDeviceScratch();
  void RunDense(int layer);
  HostMlp AllRows(const MlpWeights& w) const;

  // moe_route.cpp: f_.routing and h on the host, or the choice and h on the device
  void RouteOnHost(int layer);
  void RouteOnDevice(int layer);
  void SelectOnHost(int layer, const float* logits);
  void Receive();  // the choice and h from the device
  void Observe(int layer);

  // moe_host.cpp
  void TakePairs();
  bool HasHostWork(int layer) const;
  bool HasFurtherPart(int layer) const;
  void SortPairs();
  void CollectHostMlps(int layer);
  void RunHostPart(int layer, float* y, const std::function<void()>& meanwhile);
  // y[t, :] += the MLPs' outputs, on the whole team with one barrier.
  void RunOnHost(std::span<const HostMlp> mlps, float* y, std::int64_t y_stride,
                 const std::function<void()>& meanwhile = nullptr);
  void GateAndUp(std::span<const HostMlp> mlps, std::int64_t step, const Worker& w);
  void GateAndUpRows(const HostMlp& m, const HostShard& gate, const HostShard& up, std::int64_t r0,
                     std::int64_t r1, const Worker& w);
  void Down(std::span<const HostMlp> mlps, std::int64_t step, float* y, std::int64_t y_stride,
            const Worker& w);

  // moe_device.cpp: only enqueue, but for Join
  void MlpOnDevice(const MlpWeights& w, const cl::Span& y, const Vector* norm);
  void EnqueueDevicePart(int layer, const cl::Span& y);
  void EnqueueExperts(int layer, const cl::Span& y);
  cl::ExpertsArgs ExpertsOf(int layer) const;
  bool RoutesOneRow(int layer) const;
  bool SharedNeedsNoChoice(int layer) const;
  cl::GroupArgs GroupOf(int layer, const cl::ExpertsArgs& a) const;
  void FinishFromDevice(int layer, const std::function<void()>& meanwhile);
  void FinishFromHost(int layer);
  bool HasDevicePart(int layer) const;
  void UploadInput();
  void CountAllPairs(int layer);
  void CountDevicePairs(int layer);
  void Join();  // the device's part into x on the host

  Forward& f_;
  HostActivation act_;
  HostActivation logits_;
  std::span<float> host_part_;  // [T, D] the device's sum when x is on the host
  std::vector<HostMlp> mlps_;
  // The pairs (row, expert) of the layer in progress, sorted by expert.
  std::span<std::int64_t> pair_begin_, pair_next_;  // [E + 1]
  std::span<std::int32_t> pair_rows_, pair_of_;     // [T K]; pair_of_: from t * K + k
  std::span<float> pair_weights_;
  cl::Span dgate_, dpart_, dlogits_;
  ExpertMemory dexperts_;
  bool shared_made_ = false;  // the router's launch made the shared expert's act
};

}  // namespace tandem
