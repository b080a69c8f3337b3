#include "placement/plan_json.h"

namespace tandem {
namespace {

using Json = OrderedJson;

// {"host": [[8, 31]], "device0": [[0, 7]]}: ids as ranges [first, last] per place.
Json ExpertRanges(const std::vector<Place>& experts) {
  Json ranges = Json::object();
  for (std::size_t first = 0; first < experts.size();) {
    std::size_t end = first + 1;
    while (end < experts.size() && experts[end] == experts[first]) ++end;
    ranges[ToString(experts[first])].push_back({first, end - 1});
    first = end;
  }
  return ranges;
}

Json LayerJson(const LayerPlan& layer) {
  Json json = Json::object();
  json["attention"] = ToString(layer.attention);
  if (!layer.moe) {
    json["dense"] = ToString(layer.dense);
    return json;
  }
  json["router"] = ToString(layer.router);
  if (layer.has_shared) json["shared_experts"] = ToString(layer.shared);
  json["routed_experts"] = ExpertRanges(layer.experts);
  return json;
}

Json DevicesJson(const Plan& plan) {
  Json list = Json::array();
  for (std::size_t i = 0; i < plan.devices.size(); ++i) {
    const PlanDevice& device = plan.devices[i];
    list.push_back({{"place", ToString(Place::Device(static_cast<int>(i)))},
                    {"index", device.index},
                    {"name", device.name},
                    {"shares_cores", device.shares_cores},
                    {"threads", device.threads},
                    {"bytes", plan.DeviceBytes(static_cast<int>(i))},
                    {"budget_bytes", device.budget_bytes},
                    {"max_alloc_bytes", device.max_alloc_bytes}});
  }
  return list;
}

Json HostJson(const Plan& plan) {
  Json nodes = Json::array();
  for (const PlanNode& node : plan.nodes) {
    nodes.push_back({{"os_index", node.os_index}, {"cores", node.cores}, {"share", node.share}});
  }
  return {{"bytes", plan.host_bytes},
          {"memory_bytes", plan.HostMemoryBytes()},
          {"budget_bytes", plan.host_budget_bytes},
          {"nodes", nodes}};
}

Json ItemsJson(const Plan& plan) {
  Json list = Json::array();
  for (const PlanItem& item : plan.items) {
    list.push_back({{"what", item.what},
                    {"place", ToString(item.place)},
                    {"count", item.count},
                    {"bytes", item.bytes}});
  }
  return list;
}

Json PredictionJson(const Prediction& p) {
  return {{"sequences", p.sequences},
          {"prompt_tokens", p.prompt_tokens},
          {"answer_tokens", p.answer_tokens},
          {"time_to_first_token_s", p.time_to_first_token_s},
          {"prefill_tokens_per_s", p.prefill_tokens_per_s},
          {"prefill_range", {p.prefill_low, p.prefill_high}},
          {"decode_tokens_per_s", p.decode_tokens_per_s},
          {"decode_range", {p.decode_low, p.decode_high}},
          {"device_hit_rate", p.device_hit_rate},
          {"rates", p.rates},
          {"statistics", p.statistics},
          {"prefill_step", StepCostJson(p.prefill_step)},
          {"decode_step", StepCostJson(p.decode_step)}};
}

}  // namespace

OrderedJson StepCostJson(const StepCost& cost) {
  return {{"seconds", cost.seconds},
          {"host", cost.host},
          {"device", cost.device},
          {"overlap", cost.overlap},
          {"transfer", cost.transfer},
          {"hand_over", cost.hand_over},
          {"host_memory_bytes", cost.host_memory_bytes},
          {"device_memory_bytes", cost.device_memory_bytes},
          {"limit", Name(cost.limit)},
          {"limit_index", cost.limit_index}};
}

OrderedJson PlanJson(const Plan& plan) {
  Json layers = Json::array();
  for (const LayerPlan& layer : plan.layers) layers.push_back(LayerJson(layer));
  return {{"precision", plan.precision == Precision::kExact ? "exact" : "fast"},
          {"kv_type", Name(plan.kv_type)},
          {"activation_type", Name(plan.activation_type)},
          {"bf16_many_rows", plan.bf16_many_rows},
          {"f8_many_rows", plan.f8_many_rows},
          {"block_formats", plan.block_formats},
          {"kv_blocks", plan.kv_blocks},
          {"max_rows", plan.max_rows},
          {"max_sequences", plan.max_sequences},
          {"stream_prefill", plan.stream_prefill},
          {"hand_over", Name(plan.hand_over)},
          {"deferral", plan.deferral},
          {"step_ahead", Name(plan.step_ahead)},
          {"stream_rows", plan.stream.rows},
          {"stream_expert_bytes", plan.stream.expert_bytes},
          {"stream_bf16_bytes", plan.stream.bf16_bytes},
          {"stream_memory", Name(plan.stream.memory)},
          {"cache_slots", plan.cache.slots},
          {"cache_expert_bytes", plan.cache.expert_bytes},
          {"cache_raw_bytes", plan.cache.raw_bytes},
          {"host", HostJson(plan)},
          {"devices", DevicesJson(plan)},
          {"items", ItemsJson(plan)},
          {"prediction", PredictionJson(plan.prediction)},
          {"embedding", ToString(plan.embedding)},
          {"head", ToString(plan.head)},
          {"layers", layers},
          {"notes", plan.notes}};
}

std::string Dump(const OrderedJson& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string ToJson(const Plan& plan) { return Dump(PlanJson(plan)); }

}  // namespace tandem
