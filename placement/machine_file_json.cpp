#include <nlohmann/json.hpp>

#include "placement/machine_file.h"
#include "placement/rates_json.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const Node& node) {
  return {{"os_index", node.os_index},
          {"package", node.package},
          {"memory", node.memory_bytes},
          {"free", node.free_bytes},
          {"free_huge_pages", node.free_huge_page_bytes},
          {"threads_per_core", node.threads_per_core},
          {"cores", node.cores}};
}

Json ToJson(const Cache& cache) {
  return {{"level", cache.level},
          {"size", cache.bytes},
          {"count", cache.count},
          {"cores", cache.cores}};
}

Json ToJson(const Device& device) {
  return {{"index", device.index},
          {"name", device.name},
          {"platform", device.platform},
          {"driver", device.driver_version},
          {"pci_address", device.pci_address},
          {"numa_node", device.numa_node},
          {"shares_cores", device.shares_cores},
          {"memory", device.memory_bytes},
          {"max_alloc", device.max_alloc_bytes},
          {"compute_units", device.compute_units}};
}

const char* NameOf(RatesOrigin origin) {
  if (origin == RatesOrigin::kMeasured) return "measured";
  return origin == RatesOrigin::kFile ? "file" : "assumed";
}

Json RatesToJson(const Rates& rates) {
  Json json = {{"origin", NameOf(rates.origin)},
               {"when", rates.when},
               {"host", ToJson(rates.host)},
               {"devices", Json::array()}};
  for (const DeviceRates& device : rates.devices) json["devices"].push_back(ToJson(device));
  return json;
}

template <class T>
Json ListOf(const std::vector<T>& items) {
  Json list = Json::array();
  for (const T& item : items) list.push_back(ToJson(item));
  return list;
}

}  // namespace

std::string MachineJson(const Machine& machine) {
  return ToText({{"format", 1},
                 {"cpu", machine.cpu_name},
                 {"memory", MemoryBytes(machine)},
                 {"memory_limit", machine.memory_limit_bytes},
                 {"memlock_limit", machine.memlock_limit_bytes},
                 {"cpu_quota", machine.cpu_quota},
                 {"nodes", ListOf(machine.nodes)},
                 {"caches", ListOf(machine.caches)},
                 {"distances", machine.distances},
                 {"devices", ListOf(machine.devices)},
                 {"device_problem", machine.device_problem},
                 {"rates", RatesToJson(machine.rates)}}) +
         "\n";
}

}  // namespace tandem
