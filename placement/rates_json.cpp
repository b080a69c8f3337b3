#include "placement/rates_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "placement/yaml_fields.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

// More than any machine or table has; what a hostile file may ask for stays small.
constexpr std::size_t kMaxNodes = 1024;
constexpr std::size_t kMaxTeams = 64;
constexpr std::size_t kMaxReads = 4096;
constexpr std::size_t kMaxAxis = 256;
constexpr std::size_t kMaxPoints = std::size_t{1} << 16;
constexpr std::int64_t kMaxThreads = 1 << 20;

// The plain numbers of DeviceRates, once for both directions.
struct DeviceNumber {
  const char* key;
  double DeviceRates::*member;
};
constexpr std::array<DeviceNumber, 11> kDeviceNumbers{{
    {"read_bytes_per_s", &DeviceRates::read_bytes_per_s},
    {"gemm_flops", &DeviceRates::gemm_flops},
    {"pinned_write_bytes_per_s", &DeviceRates::pinned_write_bytes_per_s},
    {"pinned_read_bytes_per_s", &DeviceRates::pinned_read_bytes_per_s},
    {"pageable_write_bytes_per_s", &DeviceRates::pageable_write_bytes_per_s},
    {"pageable_read_bytes_per_s", &DeviceRates::pageable_read_bytes_per_s},
    {"launch_s", &DeviceRates::launch_s},
    {"transfer_s", &DeviceRates::transfer_s},
    {"round_trip_s", &DeviceRates::round_trip_s},
    {"hand_over_s", &DeviceRates::hand_over_s},
    {"value_s", &DeviceRates::value_s},
}};

Json ToJson(const RateTable& table) { return {{"axes", table.axes}, {"seconds", table.seconds}}; }

Json ToJson(const std::map<DType, RateTable>& tables) {
  Json json = Json::object();
  for (const auto& [type, table] : tables) json[std::string(Name(type))] = ToJson(table);
  return json;
}

Json ToJson(const TeamRates& team) {
  return {{"threads", team.threads},         {"hand_out_s", team.hand_out_s},
          {"value_s", team.value_s},         {"linear", ToJson(team.linear)},
          {"experts", ToJson(team.experts)}, {"attention", ToJson(team.attention)}};
}

std::vector<double> Numbers(const YamlField& field, std::size_t most) {
  std::vector<double> numbers;
  for (const YamlField& element : field.List(most)) numbers.push_back(element.NotNegative());
  return numbers;
}

RateTable ReadTable(const YamlField& field) {
  const FieldMap map(field, {"axes", "seconds"});
  RateTable table;
  const std::vector<YamlField> axes = map.At("axes").List(table.axes.size());
  if (axes.size() != table.axes.size()) map.At("axes").Expected("three axes");
  for (std::size_t i = 0; i < axes.size(); ++i) {
    for (const YamlField& point : axes[i].List(kMaxAxis)) {
      table.axes[i].push_back(point.Int(1, std::int64_t{1} << 40));
    }
  }
  table.seconds = Numbers(map.At("seconds"), kMaxPoints);
  if (!IsValid(table)) {
    field.Fail("expected ascending axes and a positive number of seconds for each of their points");
  }
  return table;
}

std::map<DType, RateTable> ReadTables(const YamlField& field) {
  std::vector<std::string_view> names;
  for (int i = 0; i < kNumWeightFormats; ++i) names.push_back(Name(static_cast<DType>(i)));
  const FieldMap map(field, names);
  std::map<DType, RateTable> tables;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto type = static_cast<DType>(i);
    if (map.Has(Name(type))) tables[type] = ReadTable(map.At(Name(type)));
  }
  if (tables.empty()) field.Fail("expected the table of at least one format");
  return tables;
}

TeamRates ReadTeam(const YamlField& field) {
  const FieldMap map(field, {"threads", "hand_out_s", "value_s", "linear", "experts", "attention"});
  TeamRates team;
  team.threads = static_cast<int>(map.At("threads").Int(1, kMaxThreads));
  team.hand_out_s = map.At("hand_out_s").NotNegative();
  team.value_s = map.At("value_s").NotNegative();
  team.linear = ReadTables(map.At("linear"));
  team.experts = ReadTables(map.At("experts"));
  team.attention = ReadTable(map.At("attention"));
  return team;
}

NodeRates ReadNode(const YamlField& field) {
  const FieldMap map(field, {"os_index", "read"});
  NodeRates node;
  node.os_index = static_cast<int>(map.At("os_index").Int(0, kMaxThreads));
  for (const YamlField& element : map.At("read").List(kMaxReads)) {
    const FieldMap point(element, {"threads", "bytes_per_s"});
    const int threads = static_cast<int>(point.At("threads").Int(1, kMaxThreads));
    if (!node.read.empty() && threads <= node.read.back().threads) {
      point.At("threads").Expected(
          fmt::format("more than the {} before", node.read.back().threads));
    }
    node.read.push_back({threads, point.At("bytes_per_s").Positive()});
  }
  return node;
}

// Kernels on a node without cores are not measured; everything else is.
std::string NodeMismatch(const HostRates& rates, const std::vector<Node>& nodes) {
  if (rates.nodes.size() != nodes.size() || rates.between.size() != nodes.size()) {
    return fmt::format("rates of {} nodes and a table of {}, the machine has {}",
                       rates.nodes.size(), rates.between.size(), nodes.size());
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (rates.nodes[i].os_index != nodes[i].os_index) {
      return fmt::format("rates of node {} where the machine has node {}", rates.nodes[i].os_index,
                         nodes[i].os_index);
    }
    if (rates.between[i].size() != nodes.size()) {
      return fmt::format("node {} reads from {} nodes, the machine has {}", nodes[i].os_index,
                         rates.between[i].size(), nodes.size());
    }
    if (rates.nodes[i].read.empty() && !nodes[i].cores.empty()) {
      return fmt::format("no read bandwidth of node {}", nodes[i].os_index);
    }
  }
  return "";
}

std::string TeamMismatch(const HostRates& rates) {
  if (rates.teams.empty()) return "no team of threads";
  const auto order = [](const TeamRates& a, const TeamRates& b) { return a.threads >= b.threads; };
  const auto twice = std::ranges::adjacent_find(rates.teams, order);
  return twice == rates.teams.end() ? "" : "teams are not ascending in threads";
}

bool IsLine(const Json& json) {
  return std::ranges::none_of(json, [](const Json& value) { return value.is_structured(); });
}

void Print(const Json& json, std::string& text, std::size_t depth) {
  if (!json.is_structured() || json.empty() || (json.is_array() && IsLine(json))) {
    // Driver names are any bytes; JSON is UTF-8.
    text += json.dump(-1, ' ', false, Json::error_handler_t::replace);
    return;
  }
  const std::string indent(2 * depth + 2, ' ');
  const char* separator = "";
  text += json.is_array() ? "[" : "{";
  for (const auto& [key, value] : json.items()) {
    text += fmt::format("{}\n{}", separator, indent);
    if (json.is_object()) text += Json(key).dump() + ": ";
    Print(value, text, depth + 1);
    separator = ",";
  }
  text += fmt::format("\n{}{}", indent.substr(2), json.is_array() ? "]" : "}");
}

}  // namespace

std::string ToText(const Json& json) {
  std::string text;
  Print(json, text, 0);
  return text;
}

Json ToJson(const HostRates& rates) {
  Json json = {{"nodes", Json::array()}, {"between", rates.between}, {"teams", Json::array()}};
  for (const NodeRates& node : rates.nodes) {
    Json read = Json::array();
    for (const ReadRate& rate : node.read) {
      read.push_back({{"threads", rate.threads}, {"bytes_per_s", rate.bytes_per_s}});
    }
    json["nodes"].push_back({{"os_index", node.os_index}, {"read", std::move(read)}});
  }
  for (const TeamRates& team : rates.teams) json["teams"].push_back(ToJson(team));
  return json;
}

Json ToJson(const DeviceRates& rates) {
  Json json = {{"index", rates.index}, {"threads", rates.threads}};
  for (const DeviceNumber& number : kDeviceNumbers) json[number.key] = rates.*number.member;
  json["linear"] = ToJson(rates.linear);
  json["experts"] = ToJson(rates.experts);
  json["attention"] = ToJson(rates.attention);
  return json;
}

HostRates ReadHostRates(const YamlValue& value, const std::string& path, const std::string& file) {
  const FieldMap map({value, path, file}, {"nodes", "between", "teams"});
  HostRates rates;
  for (const YamlField& node : map.At("nodes").List(kMaxNodes)) {
    rates.nodes.push_back(ReadNode(node));
  }
  for (const YamlField& row : map.At("between").List(kMaxNodes)) {
    rates.between.push_back(Numbers(row, kMaxNodes));
  }
  for (const YamlField& team : map.At("teams").List(kMaxTeams)) {
    rates.teams.push_back(ReadTeam(team));
  }
  return rates;
}

DeviceRates ReadDeviceRates(const YamlValue& value, const std::string& path,
                            const std::string& file) {
  const FieldMap map(
      {value, path, file},
      {"index", "threads", "read_bytes_per_s", "gemm_flops", "pinned_write_bytes_per_s",
       "pinned_read_bytes_per_s", "pageable_write_bytes_per_s", "pageable_read_bytes_per_s",
       "launch_s", "transfer_s", "round_trip_s", "hand_over_s", "value_s", "linear", "experts",
       "attention"});
  DeviceRates rates;
  rates.index = static_cast<int>(map.At("index").Int(0, kMaxThreads));
  rates.threads = static_cast<int>(map.At("threads").Int(0, kMaxThreads));
  for (const DeviceNumber& number : kDeviceNumbers) {
    // Rates divide; seconds may be too short to measure.
    const bool rate = !std::string_view(number.key).ends_with("_s") ||
                      std::string_view(number.key).ends_with("_per_s");
    const YamlField field = map.At(number.key);
    rates.*number.member = rate ? field.Positive() : field.NotNegative();
  }
  rates.linear = ReadTables(map.At("linear"));
  rates.experts = ReadTables(map.At("experts"));
  rates.attention = ReadTable(map.At("attention"));
  return rates;
}

std::string Mismatch(const Rates& rates, const Machine& machine) {
  std::string problem = NodeMismatch(rates.host, machine.nodes);
  if (problem.empty()) problem = TeamMismatch(rates.host);
  std::set<int> indices;
  for (const DeviceRates& device : rates.devices) {
    if (!indices.insert(device.index).second && problem.empty()) {
      problem = fmt::format("rates of device {} twice", device.index);
    }
  }
  for (const Device& device : machine.devices) {
    if (indices.erase(device.index) == 0 && problem.empty()) {
      problem = fmt::format("no rates of device {}", device.index);
    }
  }
  if (!indices.empty() && problem.empty()) {
    problem = fmt::format("rates of device {}, which the machine does not have", *indices.begin());
  }
  return problem;
}

}  // namespace tandem
