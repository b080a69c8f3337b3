#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/dtype.h"
#include "memory/place.h"
#include "model/tensor_list.h"
#include "placement/machine.h"

namespace tandem {

// Where the parts of one layer live and run.
struct LayerPlan {
  Place attention;  // norms, projections, and the layer's KV cache
  bool moe = false;
  Place dense;   // the MLP of a dense layer
  Place router;  // of a MoE layer
  Place shared;
  std::vector<Place> experts;  // [n_routed_experts], empty for a dense layer
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
};

struct PlanDevice {
  int index = 0;  // in the list of all OpenCL devices
  std::string name;
  bool shares_cores = false;
  int threads = 0;  // for a device that shares the cores; 0: its own choice
  std::uint64_t budget_bytes = 0;
  std::uint64_t max_alloc_bytes = 0;
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
  std::int64_t kv_blocks = 0;  // of 64 tokens, per layer
  std::int64_t max_rows = 512;
  std::int64_t max_sequences = 4;
  Precision precision = Precision::kFast;

  std::vector<PlanItem> items;
  std::uint64_t host_bytes = 0;
  std::uint64_t host_budget_bytes = 0;
  std::vector<std::string> notes;  // choices that a user should hear of, one sentence each

  std::uint64_t DeviceBytes(int device) const;  // sum over items
  // host_bytes, and what lies on devices that live in the host's memory (PoCL).
  std::uint64_t HostMemoryBytes() const;
};

std::string ToText(const Plan& plan);  // the table
std::string ToJson(const Plan& plan);

}  // namespace tandem
