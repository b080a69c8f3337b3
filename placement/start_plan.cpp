#include "placement/start_plan.h"

#include <algorithm>

namespace tandem {
namespace {

Plan HostPlan(const PlanInput& in, const Resources& resources, const Recipe& recipe) {
  Plan plan;
  plan.nodes = resources.splits[recipe.split].nodes;
  plan.layers.resize(in.task.units.layers.size());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    plan.layers[i].moe = in.task.config.IsMoeLayer(static_cast<std::int64_t>(i));
    plan.layers[i].has_shared = in.task.config.n_shared_experts > 0;
    plan.layers[i].experts.resize(in.task.units.layers[i].experts.size());
  }
  plan.kv_type = in.kv_type;
  plan.activation_type = in.profile.activation_type.value_or(DType::kF32);
  plan.bf16_many_rows =
      in.task.options.precision == Precision::kFast && in.profile.activation_type != DType::kF32;
  plan.f8_many_rows = plan.bf16_many_rows && in.profile.f8_on_devices;
  plan.block_formats = std::ranges::any_of(in.task.tensors.all(), IsPacked);
  plan.kv_blocks = in.kv_blocks;
  plan.max_rows = recipe.chunk;
  plan.max_sequences = in.profile.max_sequences;
  plan.precision = in.task.options.precision;
  plan.host_budget_bytes = in.host_budget;
  plan.stream_prefill = recipe.stream;
  if (recipe.stream) plan.stream = in.stream;
  plan.stream.memory = in.profile.stream_memory;
  plan.hand_over = in.profile.hand_over;
  plan.deferral = in.profile.deferral;
  plan.step_ahead = in.profile.step_ahead;
  return plan;
}

PlanDevice DescribeDevice(const Device& device, std::uint64_t budget, int threads) {
  PlanDevice described;
  described.index = device.index;
  described.name = device.name;
  described.shares_cores = device.shares_cores;
  described.threads = device.shares_cores ? threads : 0;
  described.budget_bytes = budget;
  described.max_alloc_bytes = device.max_alloc_bytes;
  return described;
}

// Whole slots of what is asked for, in one buffer.
CachePlan CacheFor(const PlanInput& in, const PlanDevice& device) {
  CachePlan cache = in.cache;
  const std::uint64_t bytes =
      std::min(in.profile.expert_cache_bytes.value_or(0), device.max_alloc_bytes);
  if (bytes == 0 || cache.expert_bytes == 0) return {};
  cache.slots = std::min(static_cast<std::int64_t>(bytes / cache.expert_bytes), cache.slots);
  return cache.slots > 0 ? cache : CachePlan{};
}

}  // namespace

Plan StartPlan(const PlanInput& in, const Resources& resources, const Recipe& recipe) {
  Plan plan = HostPlan(in, resources, recipe);
  for (std::size_t d = 0; d < resources.devices.size(); ++d) {
    plan.devices.push_back(DescribeDevice(*resources.devices[d], resources.budgets[d],
                                          resources.splits[recipe.split].device_threads));
  }
  if (!plan.devices.empty()) plan.cache = CacheFor(in, plan.devices[0]);
  return plan;
}

}  // namespace tandem
