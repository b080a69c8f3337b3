#include <nlohmann/json.hpp>

#include "placement/plan.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

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
  json["shared_experts"] = ToString(layer.shared);
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
    nodes.push_back({{"os_index", node.os_index}, {"cores", node.cores}});
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

}  // namespace

std::string ToJson(const Plan& plan) {
  Json layers = Json::array();
  for (const LayerPlan& layer : plan.layers) layers.push_back(LayerJson(layer));
  const Json json{{"precision", plan.precision == Precision::kExact ? "exact" : "fast"},
                  {"kv_type", Name(plan.kv_type)},
                  {"activation_type", Name(plan.activation_type)},
                  {"kv_blocks", plan.kv_blocks},
                  {"max_rows", plan.max_rows},
                  {"max_sequences", plan.max_sequences},
                  {"host", HostJson(plan)},
                  {"devices", DevicesJson(plan)},
                  {"items", ItemsJson(plan)},
                  {"embedding", ToString(plan.embedding)},
                  {"head", ToString(plan.head)},
                  {"layers", layers},
                  {"notes", plan.notes}};
  // A device name comes from a driver: bytes that are no UTF-8 must not throw here.
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tandem
