#include <fmt/format.h>

#include <algorithm>

#include "placement/byte_size.h"
#include "placement/plan_explain.h"
#include "placement/plan_json.h"

namespace tandem {
namespace {

std::string Share(const char* name, double seconds, const StepCost& step) {
  if (seconds <= 0) return {};
  return fmt::format("    {:<22} {:>10.3f} ms  {:>5.1f} %\n", name, 1e3 * seconds,
                     100 * seconds / step.seconds);
}

std::string StepText(const char* phase, const StepCost& step) {
  if (step.seconds <= 0) return {};
  std::string text =
      fmt::format("  {}: {:.3f} ms, limited by {}\n", phase, 1e3 * step.seconds, Name(step.limit));
  text += Share("CPU kernels", step.host, step);
  text += Share("device kernels", step.device, step);
  text += Share("both at once", step.overlap, step);
  text += Share("transfers", step.transfer, step);
  text += Share("hand-over", step.hand_over, step);
  text += fmt::format("    reads {} of host memory and {} of device memory\n",
                      FormatBytes(static_cast<std::uint64_t>(step.host_memory_bytes)),
                      FormatBytes(static_cast<std::uint64_t>(step.device_memory_bytes)));
  return text;
}

std::string GroupLine(const Explanation::Group& group) {
  std::string saved(36, ' ');
  if (group.decode_token_s != 0 || group.first_token_s != 0) {
    saved = fmt::format("{:>+11.3f} {:>+12.3f} {:>+11.3f}", group.first_token_s,
                        1e3 * group.decode_token_s, group.workload_s_per_gib);
  }
  return fmt::format("{:<22}  {:<8} {:>12} {}  {}\n", group.what, ToString(group.place),
                     FormatBytes(group.bytes), saved, group.why);
}

OrderedJson GroupJson(const Explanation::Group& group) {
  return {{"what", group.what},
          {"place", ToString(group.place)},
          {"bytes", group.bytes},
          {"why", group.why},
          {"saves_first_token_s", group.first_token_s},
          {"saves_decode_step_s", group.decode_token_s},
          {"saves_workload_s_per_gib", group.workload_s_per_gib}};
}

}  // namespace

OrderedJson ExplanationJson(const Explanation& explanation) {
  OrderedJson json{{"groups", OrderedJson::array()},
                   {"prefill_step", StepCostJson(explanation.plan.prediction.prefill_step)},
                   {"decode_step", StepCostJson(explanation.plan.prediction.decode_step)},
                   {"what_if", OrderedJson::array()}};
  for (const auto& group : explanation.groups) json["groups"].push_back(GroupJson(group));
  for (const auto& what_if : explanation.what_ifs) {
    json["what_if"].push_back({{"change", what_if.change},
                               {"time_to_first_token_s", what_if.prediction.time_to_first_token_s},
                               {"prefill_tokens_per_s", what_if.prediction.prefill_tokens_per_s},
                               {"decode_tokens_per_s", what_if.prediction.decode_tokens_per_s}});
  }
  return json;
}

std::string ToText(const Explanation& explanation) {
  const Prediction& now = explanation.plan.prediction;
  std::string text =
      "what it saves to have things where they are (negative: the other side is faster)\n";
  text += fmt::format("{:<22}  {:<8} {:>12} {:>11} {:>12} {:>11}\n", "", "place", "bytes",
                      "to token 1", "decode step", "workload");
  text +=
      fmt::format("{:<22}  {:<8} {:>12} {:>11} {:>12} {:>11}\n", "", "", "", "s", "ms", "s/GiB");
  for (const auto& group : explanation.groups) text += GroupLine(group);
  text += "\nwhere the time of a step goes\n";
  text += StepText("a prefill chunk", now.prefill_step);
  text += StepText("a decode step", now.decode_step);
  if (!explanation.what_ifs.empty()) text += "\nwhat a better machine would bring\n";
  for (const auto& [change, with] : explanation.what_ifs) {
    text += fmt::format(
        "  {}: prefill {:.2f} tokens/s ({:+.1f} %), decode {:.2f} ({:+.1f} %)\n", change,
        with.prefill_tokens_per_s, 100 * (with.prefill_tokens_per_s / now.prefill_tokens_per_s - 1),
        with.decode_tokens_per_s, 100 * (with.decode_tokens_per_s / now.decode_tokens_per_s - 1));
  }
  return text;
}

std::string ToJson(const Explanation& explanation) { return Dump(ExplanationJson(explanation)); }

}  // namespace tandem
