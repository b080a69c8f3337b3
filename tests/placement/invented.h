#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "memory/error.h"
#include "model/config.h"
#include "placement/machine.h"
#include "placement/model_sizes.h"
#include "placement/plan.h"

// Machines and models that do not exist here, to plan for.
namespace tandem::test {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

inline Config V3() {
  Config c;
  c.model_type = "deepseek_v3";
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.num_attention_heads = c.num_key_value_heads = 128;
  c.vocab_size = 129280;
  c.intermediate_size = 18432;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.moe_intermediate_size = 2048;
  c.first_k_dense_replace = 3;
  c.topk_method = "noaux_tc";
  c.scoring_func = "sigmoid";
  return c;
}

inline Config V2Lite() {
  Config c = V3();
  c.model_type = "deepseek_v2";
  c.family = Family::kDeepSeekV2;
  c.hidden_size = 2048;
  c.num_hidden_layers = 27;
  c.num_attention_heads = c.num_key_value_heads = 16;
  c.vocab_size = 102400;
  c.intermediate_size = 10944;
  c.q_lora_rank = 0;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.moe_intermediate_size = 1408;
  c.first_k_dense_replace = 1;
  c.topk_method = "greedy";
  c.scoring_func = "softmax";
  return c;
}

inline Config V2() {
  Config c = V3();
  c.model_type = "deepseek_v2";
  c.family = Family::kDeepSeekV2;
  c.hidden_size = 5120;
  c.num_hidden_layers = 60;
  c.vocab_size = 102400;
  c.intermediate_size = 12288;
  c.n_routed_experts = 160;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.moe_intermediate_size = 1536;
  c.first_k_dense_replace = 1;
  c.topk_method = "group_limited_greedy";
  c.scoring_func = "softmax";
  return c;
}

// 5 layers, the first dense, of 32 experts: quick to plan, with sizes that are no round numbers.
inline Config Tiny() {
  Config c = V2Lite();
  c.hidden_size = 200;
  c.num_hidden_layers = 5;
  c.num_attention_heads = c.num_key_value_heads = 3;
  c.vocab_size = 1001;
  c.intermediate_size = 300;
  c.kv_lora_rank = 36;
  c.qk_nope_head_dim = 20;
  c.qk_rope_head_dim = 12;
  c.v_head_dim = 18;
  c.n_routed_experts = 32;
  c.num_experts_per_tok = 4;
  c.moe_intermediate_size = 50;
  return c;
}

inline Node MakeNode(int os_index, int cores, std::uint64_t memory) {
  Node node;
  node.os_index = os_index;
  node.memory_bytes = node.free_bytes = memory;
  for (int i = 0; i < cores; ++i) node.cores.push_back(os_index * cores + i);
  return node;
}

inline Machine CpuMachine(int nodes, int cores, std::uint64_t memory) {
  Machine machine;
  machine.cpu_name = "Invented CPU";
  for (int i = 0; i < nodes; ++i) machine.nodes.push_back(MakeNode(i, cores, memory / nodes));
  machine.device_problem = "no platform";
  machine.memory_limit_bytes = memory;
  return machine;
}

inline void AddDevice(Machine& machine, const std::string& name, bool shares_cores,
                      std::uint64_t memory, std::uint64_t max_alloc) {
  Device device;
  device.index = static_cast<int>(machine.devices.size());
  device.name = name;
  device.platform = shares_cores ? "Portable Computing Language" : "Invented GPUs";
  device.shares_cores = shares_cores;
  device.memory_bytes = memory;
  device.max_alloc_bytes = max_alloc;
  machine.devices.push_back(device);
  machine.device_problem.clear();
}

inline Machine PoclMachine(int cores = 4) {
  Machine machine = CpuMachine(1, cores, 32 * kGiB);
  AddDevice(machine, "pthread-invented", true, 30 * kGiB, 2 * kGiB);
  return machine;
}

inline Machine GpuMachine(std::uint64_t gpu_gib, std::uint64_t host_gib = 1024) {
  Machine machine = CpuMachine(2, 16, host_gib * kGiB);
  AddDevice(machine, "Invented GPU " + std::to_string(gpu_gib) + "G", false, gpu_gib * kGiB,
            gpu_gib * kGiB / 4);
  return machine;
}

// Two sockets, 768 GB and one GPU of 24 GB.
inline Machine Server() { return GpuMachine(24, 768); }

// One socket, 128 GB, and two GPUs of different size and speed.
inline Machine Workstation() {
  Machine machine = CpuMachine(1, 16, 128 * kGiB);
  AddDevice(machine, "Invented GPU small", false, 8 * kGiB, 2 * kGiB);
  AddDevice(machine, "Invented GPU large", false, 24 * kGiB, 6 * kGiB);
  machine.devices[0].compute_units = 20;
  machine.devices[1].compute_units = 80;
  return machine;
}

// 32 GB and no device.
inline Machine Laptop() { return CpuMachine(1, 8, 32 * kGiB); }

inline Machine EightNodes() {
  Machine machine = CpuMachine(8, 12, 1536 * kGiB);
  machine.memory_limit_bytes -= machine.nodes[3].free_bytes - 24 * kGiB;
  machine.nodes[3].free_bytes = 24 * kGiB;  // somebody else is there
  return machine;
}

inline std::uint64_t BytesOfItem(const Plan& plan, const std::string& what, Place place) {
  for (const PlanItem& item : plan.items) {
    if (item.what == what && item.place == place) return item.bytes;
  }
  return 0;
}

inline int ExpertsOnDevice(const LayerPlan& layer) {
  return static_cast<int>(std::count_if(layer.experts.begin(), layer.experts.end(),
                                        [](Place p) { return p.on_device(); }));
}

// The message of the error that `run` must throw with this exit code.
template <class F>
std::string Refusal(F run, ExitCode code) {
  try {
    run();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace tandem::test
