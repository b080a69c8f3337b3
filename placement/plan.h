#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dtype.h"
#include "memory/place.h"
#include "model/tensor_list.h"
#include "placement/hand_over_way.h"
#include "placement/machine.h"
#include "placement/step_ahead.h"
#include "placement/stream_memory.h"

namespace tandem {

// Where the parts of one layer live and run.
struct LayerPlan {
  Place attention;  // norms, projections, and the layer's KV cache
  bool moe = false;
  Place dense;   // the MLP of a dense layer
  Place router;  // of a MoE layer
  Place shared;
  bool has_shared = true;      // of a MoE layer; without, `shared` says nothing
  std::vector<Place> experts;  // [n_routed_experts], empty for a dense layer

  bool SharedOnHost() const { return moe && has_shared && !shared.on_device(); }
};

// A line of the table that a plan prints: what, where, how many bytes.
struct PlanItem {
  std::string what;  // "attention", "shared experts", "routed experts", "KV cache", "scratch", ...
  Place place;
  std::int64_t count = 0;  // tensors, experts or blocks
  std::uint64_t bytes = 0;
};

struct PlanNode {
  int os_index = 0;
  std::vector<int> cores;  // one worker thread each, pinned
  // Share of every host matrix' rows that this node holds and works on; over all nodes they sum to
  // 1. 0 for every node: equal shares.
  double share = 0;
};

// What bounds a phase.
enum class Limit : std::uint8_t {
  kHostMemory,      // reading weights from a node's DRAM
  kHostArithmetic,  // CPU kernels
  kDeviceMemory,
  kDeviceArithmetic,
  kDeviceLaunches,  // many small kernels
  kTransfer,        // PCIe: streaming weights or activations
  kHandOver,        // waiting for each other, layer by layer
};
std::string_view Name(Limit limit);  // "host memory", ...

// Where the time of one step goes, in seconds. host and device overlap in MoE layers, so the parts
// can sum to more than `seconds`.
struct StepCost {
  double seconds = 0;
  double host = 0;     // CPU kernels at work
  double device = 0;   // device kernels at work
  double overlap = 0;  // both at once: seconds = host + device - overlap + transfer + hand_over
  double transfer = 0;
  double hand_over = 0;
  double host_memory_bytes = 0;  // weights and KV read by the CPU
  double device_memory_bytes = 0;
  Limit limit = Limit::kHostMemory;
  int limit_index = 0;  // of the node or device that limits
};

// What the planner expects of a plan; from rates that were measured, read from a file or assumed.
struct Prediction {
  double prompt_tokens = 0;  // of the workload it was made for
  double answer_tokens = 0;
  double sequences = 1;
  double time_to_first_token_s = 0;
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;  // over all sequences
  // The range: measured rates of shared machines differ from run to run.
  double prefill_low = 0, prefill_high = 0;
  double decode_low = 0, decode_high = 0;
  StepCost prefill_step;       // of one full chunk in the middle of the prompt
  StepCost decode_step;        // in the middle of the answer
  double device_hit_rate = 0;  // expected share of expert choices in decode that are on a device
  std::string rates;           // "measured 2026-11-22 06:40 UTC", "assumed", "machine file x.yaml"
  bool statistics = false;     // routing statistics were used; else routing is taken as uniform
};

struct PlanDevice {
  int index = 0;  // in the list of all OpenCL devices
  std::string name;
  bool shares_cores = false;
  int threads = 0;  // for a device that shares the cores; 0: its own choice
  std::uint64_t budget_bytes = 0;
  std::uint64_t max_alloc_bytes = 0;
};

// Experts of the host that run on devices[0] in large steps, copied there as they are needed.
struct StreamPlan {
  std::int64_t rows = 0;           // least rows of a step that does so; 0: none does
  std::uint64_t expert_bytes = 0;  // of an expert as it travels, at the most
  std::uint64_t bf16_bytes = 0;    // the same decoded there; 0: it travels in a device's format
  StreamMemory memory = StreamMemory::kAuto;
};

// Room on devices[0] for experts of the host that are used much (runtime/expert_cache.h).
struct CachePlan {
  std::int64_t slots = 0;          // experts at a time; 0: there is no cache
  std::uint64_t expert_bytes = 0;  // of a slot
  std::uint64_t raw_bytes = 0;     // of an expert as it travels, at the most
};

// Everything that the runtime needs to know of placement, and nothing else decides where anything
// lives. Place::Device(i) is devices[i]. Host weights are split by rows over the nodes.
struct Plan {
  std::vector<PlanNode> nodes;
  std::vector<PlanDevice> devices;
  Place embedding;  // always the host: a step reads single rows
  Place head;       // final norm and lm_head
  std::vector<LayerPlan> layers;

  DType kv_type = DType::kF16;
  DType activation_type = DType::kF32;  // bf16: CPU kernels take rounded activations
  bool bf16_many_rows = false;  // CPU kernels for many rows round activations (and weights) to bf16
  bool f8_many_rows = false;    // devices round to e4m3 where weights are FP8 (cl_kernels/e4m3.cl)
  bool block_formats = false;   // among the matrices: the host quantises activations for them
  std::int64_t kv_blocks = 0;   // of 64 tokens, per layer
  std::int64_t max_rows = 512;
  std::int64_t max_sequences = 4;
  Precision precision = Precision::kFast;

  std::vector<PlanItem> items;
  std::uint64_t host_bytes = 0;
  std::uint64_t host_budget_bytes = 0;
  std::vector<std::string> notes;  // choices that a user should hear of, one sentence each
  Prediction prediction;
  // In prefill, experts whose place is the host are copied to devices[0] chunk by chunk and run
  // there.
  bool stream_prefill = false;
  StreamPlan stream;
  CachePlan cache;
  HandOverWay hand_over = HandOverWay::kAuto;
  bool deferral = false;                            // of the CPU's sums (placement/deferral.h)
  StepAheadWish step_ahead = StepAheadWish::kAuto;  // whether they are: StepsAhead

  std::uint64_t DeviceBytes(int device) const;  // sum over items
  // host_bytes, and what lies on devices that live in the host's memory (PoCL).
  std::uint64_t HostMemoryBytes() const;
};

std::string ToText(const Plan& plan);  // the table
std::string ToJson(const Plan& plan);
std::string ToYaml(const Plan& plan);  // the JSON's content
// What ToJson wrote. Throws ConfigError naming file and field for anything else.
Plan ParsePlan(const std::string& json, const std::string& file);

}  // namespace tandem
