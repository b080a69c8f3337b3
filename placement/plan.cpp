#include "placement/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "placement/byte_size.h"
#include "placement/step_feed_shape.h"

namespace tandem {
namespace {

std::string CoreList(const std::vector<int>& cores) {
  std::string text;
  for (std::size_t i = 0; i < cores.size();) {
    std::size_t end = i + 1;
    while (end < cores.size() && cores[end] == cores[end - 1] + 1) ++end;
    if (!text.empty()) text += ",";
    text +=
        end - i == 1 ? fmt::format("{}", cores[i]) : fmt::format("{}-{}", cores[i], cores[end - 1]);
    i = end;
  }
  return text;
}

std::string Free(std::uint64_t bytes, std::uint64_t budget) {
  return bytes <= budget ? FormatBytes(budget - bytes)
                         : fmt::format("-{}", FormatBytes(bytes - budget));
}

std::string ItemTable(const Plan& plan) {
  std::size_t width = 4;
  for (const PlanItem& item : plan.items) width = std::max(width, item.what.size());
  std::string text =
      fmt::format("{:<{}}  {:<8} {:>8} {:>12}\n", "item", width, "place", "count", "bytes");
  for (const PlanItem& item : plan.items) {
    text += fmt::format("{:<{}}  {:<8} {:>8} {:>12}\n", item.what, width, ToString(item.place),
                        item.count, FormatBytes(item.bytes));
  }
  return text;
}

std::string PlaceTable(const Plan& plan) {
  std::string text =
      fmt::format("{:<8} {:>12} {:>12} {:>12}\n", "place", "needed", "budget", "free");
  const std::uint64_t host = plan.HostMemoryBytes();
  text += fmt::format("{:<8} {:>12} {:>12} {:>12}\n", "host", FormatBytes(host),
                      FormatBytes(plan.host_budget_bytes), Free(host, plan.host_budget_bytes));
  for (std::size_t i = 0; i < plan.devices.size(); ++i) {
    const PlanDevice& device = plan.devices[i];
    const std::uint64_t bytes = plan.DeviceBytes(static_cast<int>(i));
    text += fmt::format("{:<8} {:>12} {:>12} {:>12}  {} (OpenCL device {}){}\n",
                        ToString(Place::Device(static_cast<int>(i))), FormatBytes(bytes),
                        FormatBytes(device.budget_bytes), Free(bytes, device.budget_bytes),
                        device.name, device.index,
                        device.shares_cores ? ", in the host's memory and counted there too" : "");
  }
  return text;
}

std::string ThreadLines(const Plan& plan) {
  std::string text;
  for (const PlanNode& node : plan.nodes) {
    text += fmt::format("threads: node {}: {} (cores {})", node.os_index, node.cores.size(),
                        CoreList(node.cores));
    if (node.share > 0) text += fmt::format(", {:.1f} % of the host's weights", 100 * node.share);
    text += "\n";
  }
  for (std::size_t i = 0; i < plan.devices.size(); ++i) {
    if (plan.devices[i].threads == 0) continue;
    text += fmt::format("threads: {}: {}\n", ToString(Place::Device(static_cast<int>(i))),
                        plan.devices[i].threads);
  }
  return text;
}

std::string LimitText(const StepCost& step) {
  switch (step.limit) {
    case Limit::kHostMemory:
      return fmt::format("{} of node {}", Name(step.limit), step.limit_index);
    case Limit::kDeviceMemory:
    case Limit::kDeviceArithmetic:
    case Limit::kDeviceLaunches:
      return fmt::format("{} of device{}", Name(step.limit), step.limit_index);
    default:
      return std::string(Name(step.limit));
  }
}

std::string SpeedLine(const char* phase, double speed, double low, double high,
                      const StepCost& step) {
  return fmt::format("  {:<12} {:>10.2f} tokens/s  ({:.2f} to {:.2f}), limited by {}\n", phase,
                     speed, low, high, LimitText(step));
}

std::string PredictionLines(const Plan& plan) {
  const Prediction& p = plan.prediction;
  if (p.rates.empty()) return {};
  std::string text = fmt::format(
      "predicted for {:g} sequence{} of {:g} prompt and {:g} answer tokens (rates {}, routing "
      "{}):\n",
      p.sequences, p.sequences == 1 ? "" : "s", p.prompt_tokens, p.answer_tokens, p.rates,
      p.statistics ? "from statistics" : "uniform");
  text += fmt::format("  {:<12} {:>10.2f} s\n", "first token", p.time_to_first_token_s);
  text +=
      SpeedLine("prefill", p.prefill_tokens_per_s, p.prefill_low, p.prefill_high, p.prefill_step);
  text += SpeedLine("decode", p.decode_tokens_per_s, p.decode_low, p.decode_high, p.decode_step);
  if (!plan.devices.empty() && std::ranges::any_of(plan.layers, &LayerPlan::moe)) {
    text += fmt::format("  {:<12} {:>10.1f} %         of the experts chosen in decode\n",
                        "on device", 100 * p.device_hit_rate);
  }
  return text + "\n";
}

}  // namespace

std::string_view Name(StreamMemory memory) {
  constexpr std::array<std::string_view, 3> kNames{"auto", "locked", "ring"};
  return kNames[static_cast<std::size_t>(memory)];
}

std::string_view Name(HandOverWay way) {
  constexpr std::array<std::string_view, 3> kNames{"auto", "polled", "events"};
  return kNames[static_cast<std::size_t>(way)];
}

std::string_view Name(StepAheadWish wish) {
  constexpr std::array<std::string_view, 3> kNames{"auto", "on", "off"};
  return kNames[static_cast<std::size_t>(wish)];
}

std::uint64_t Plan::DeviceBytes(int device) const {
  std::uint64_t bytes = 0;
  for (const PlanItem& item : items) {
    if (item.place == Place::Device(device)) bytes += item.bytes;
  }
  return bytes;
}

std::uint64_t Plan::HostMemoryBytes() const {
  std::uint64_t bytes = host_bytes;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (devices[i].shares_cores) bytes += DeviceBytes(static_cast<int>(i));
  }
  return bytes;
}

std::string ToText(const Plan& plan) {
  std::string text =
      ItemTable(plan) + "\n" + PlaceTable(plan) + "\n" + PredictionLines(plan) + ThreadLines(plan);
  text += fmt::format(
      "KV cache: {} blocks of 64 tokens a layer, {}, up to {} sequences; steps of up to {} rows; "
      "precision {}\n",
      plan.kv_blocks, Name(plan.kv_type), plan.max_sequences, plan.max_rows,
      plan.precision == Precision::kExact ? "exact" : "fast");
  if (plan.cache.slots > 0) {
    text += fmt::format("Expert cache on {}: {} experts of {}\n", plan.devices[0].name,
                        plan.cache.slots, FormatBytes(plan.cache.expert_bytes));
  }
  if (plan.stream_prefill)
    text += "prefill: experts of the host are copied to device0 and run there\n";
  if (plan.deferral) {
    text +=
        "deferral: in steps of up to 32 rows the CPU's sum of a MoE layer is added after the next "
        "layer's attention and router; this changes results, loading measures by how much\n";
  }
  if (StepsAhead(plan)) text += "step_ahead: a decode step is enqueued while the one before runs\n";
  if (plan.f8_many_rows) {
    text +=
        "activations.device: f8: devices round many rows to FP8 for products with FP8 weights; "
        "this "
        "changes results\n";
  }
  for (const std::string& note : plan.notes) text += fmt::format("note: {}\n", note);
  return text;
}

}  // namespace tandem
