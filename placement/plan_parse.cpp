#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "memory/error.h"
#include "placement/plan_json.h"

namespace tandem {
namespace {

using Json = OrderedJson;

// A value with its path, for messages.
struct Field {
  const Json& json;
  std::string path;
  const std::string& file;

  [[noreturn]] void Expected(const std::string& what) const {
    Throw<ConfigError>("{}: '{}': expected {}: is it what `tandem plan --output json` wrote?", file,
                       path.empty() ? "the plan" : path, what);
  }
  Field operator[](const char* key) const {
    if (!json.is_object() || !json.contains(key)) Expected(fmt::format("a map with '{}'", key));
    return {json.at(key), path.empty() ? key : fmt::format("{}.{}", path, key), file};
  }
  template <class F>
  void ForEach(F visit) const {
    if (!json.is_array()) Expected("a list");
    for (std::size_t i = 0; i < json.size(); ++i) {
      visit(Field{json.at(i), fmt::format("{}[{}]", path, i), file});
    }
  }
};

std::string Text(const Field& field) {
  if (!field.json.is_string()) field.Expected("a text");
  return field.json.get<std::string>();
}

template <class T>
T Integer(const Field& field) {
  if (!field.json.is_number_integer()) field.Expected("a whole number");
  if (field.json.is_number_unsigned()) {
    const auto number = field.json.get<std::uint64_t>();
    if (std::in_range<T>(number)) return static_cast<T>(number);
  } else if (std::in_range<T>(field.json.get<std::int64_t>())) {
    return static_cast<T>(field.json.get<std::int64_t>());
  }
  field.Expected("a number in range");
}

double Number(const Field& field) {
  if (!field.json.is_number()) field.Expected("a number");
  return field.json.get<double>();
}

bool Flag(const Field& field) {
  if (!field.json.is_boolean()) field.Expected("true or false");
  return field.json.get<bool>();
}

Place ParsePlace(const std::string& text, const Field& field) {
  if (text == "host") return Place::Host();
  int index = -1;
  if (text.starts_with("device")) {
    const auto [end, error] = std::from_chars(text.data() + 6, text.data() + text.size(), index);
    if (error == std::errc() && end == text.data() + text.size() && index >= 0) {
      return Place::Device(index);
    }
  }
  field.Expected("host, device0, device1, ...");
}
Place ParsePlace(const Field& field) { return ParsePlace(Text(field), field); }

DType ParseType(const Field& field) {
  std::optional<DType> type = ParseDType(Text(field));
  if (!type) type = ParseWeightFormat(Text(field));  // a KV cache in q8_0
  if (!type) field.Expected("an element type");
  return *type;
}

HandOverWay ParseHandOver(const Field& field) {
  const std::string word = Text(field);
  for (const HandOverWay way : {HandOverWay::kAuto, HandOverWay::kPolled, HandOverWay::kEvents}) {
    if (Name(way) == word) return way;
  }
  field.Expected("auto, polled or events");
}

StepAheadWish ParseStepAhead(const Field& field) {
  const std::string word = Text(field);
  for (const auto wish : {StepAheadWish::kAuto, StepAheadWish::kOn, StepAheadWish::kOff}) {
    if (Name(wish) == word) return wish;
  }
  field.Expected("auto, on or off");
}

StreamMemory ParseStreamMemory(const Field& field) {
  const std::string word = Text(field);
  for (const auto memory : {StreamMemory::kAuto, StreamMemory::kLocked, StreamMemory::kRing}) {
    if (Name(memory) == word) return memory;
  }
  field.Expected("auto, locked or ring");
}

Limit ParseLimit(const Field& field) {
  const std::string text = Text(field);
  for (int i = 0; i <= static_cast<int>(Limit::kHandOver); ++i) {
    if (Name(static_cast<Limit>(i)) == text) return static_cast<Limit>(i);
  }
  field.Expected("what limits a step");
}

std::vector<Place> ParseExperts(const Field& field) {
  constexpr std::size_t kMost = 65536;
  std::vector<Place> experts;
  for (const auto& [name, unused] : field.json.items()) {
    const Field ranges = field[name.c_str()];
    const Place place = ParsePlace(name, ranges);
    ranges.ForEach([&](const Field& range) {
      if (!range.json.is_array() || range.json.size() != 2) range.Expected("[first, last]");
      const auto first = Integer<std::size_t>({range.json.at(0), range.path, range.file});
      const auto last = Integer<std::size_t>({range.json.at(1), range.path, range.file});
      if (first > last || last >= kMost) range.Expected("[first, last]");
      experts.resize(std::max(experts.size(), last + 1));
      std::fill(experts.begin() + static_cast<std::ptrdiff_t>(first),
                experts.begin() + static_cast<std::ptrdiff_t>(last) + 1, place);
    });
  }
  return experts;
}

LayerPlan ParseLayer(const Field& field) {
  LayerPlan layer;
  layer.attention = ParsePlace(field["attention"]);
  layer.moe = field.json.contains("routed_experts");
  if (!layer.moe) {
    layer.dense = ParsePlace(field["dense"]);
    return layer;
  }
  layer.router = ParsePlace(field["router"]);
  layer.has_shared = field.json.contains("shared_experts");
  if (layer.has_shared) layer.shared = ParsePlace(field["shared_experts"]);
  layer.experts = ParseExperts(field["routed_experts"]);
  return layer;
}

PlanDevice ParseDevice(const Field& field) {
  PlanDevice device;
  device.index = Integer<int>(field["index"]);
  device.name = Text(field["name"]);
  device.shares_cores = Flag(field["shares_cores"]);
  device.threads = Integer<int>(field["threads"]);
  device.budget_bytes = Integer<std::uint64_t>(field["budget_bytes"]);
  device.max_alloc_bytes = Integer<std::uint64_t>(field["max_alloc_bytes"]);
  return device;
}

void ParseHost(const Field& host, Plan& plan) {
  plan.host_bytes = Integer<std::uint64_t>(host["bytes"]);
  plan.host_budget_bytes = Integer<std::uint64_t>(host["budget_bytes"]);
  host["nodes"].ForEach([&](const Field& field) {
    PlanNode node;
    node.os_index = Integer<int>(field["os_index"]);
    field["cores"].ForEach([&](const Field& core) { node.cores.push_back(Integer<int>(core)); });
    node.share = Number(field["share"]);
    plan.nodes.push_back(std::move(node));
  });
}

StepCost ParseStep(const Field& field) {
  StepCost cost;
  cost.seconds = Number(field["seconds"]);
  cost.host = Number(field["host"]);
  cost.device = Number(field["device"]);
  cost.overlap = Number(field["overlap"]);
  cost.transfer = Number(field["transfer"]);
  cost.hand_over = Number(field["hand_over"]);
  cost.host_memory_bytes = Number(field["host_memory_bytes"]);
  cost.device_memory_bytes = Number(field["device_memory_bytes"]);
  cost.limit = ParseLimit(field["limit"]);
  cost.limit_index = Integer<int>(field["limit_index"]);
  return cost;
}

void ParseRange(const Field& field, double& low, double& high) {
  if (!field.json.is_array() || field.json.size() != 2) field.Expected("[low, high]");
  low = Number({field.json.at(0), field.path, field.file});
  high = Number({field.json.at(1), field.path, field.file});
}

Prediction ParsePrediction(const Field& field) {
  Prediction p;
  p.sequences = Number(field["sequences"]);
  p.prompt_tokens = Number(field["prompt_tokens"]);
  p.answer_tokens = Number(field["answer_tokens"]);
  p.time_to_first_token_s = Number(field["time_to_first_token_s"]);
  p.prefill_tokens_per_s = Number(field["prefill_tokens_per_s"]);
  p.decode_tokens_per_s = Number(field["decode_tokens_per_s"]);
  ParseRange(field["prefill_range"], p.prefill_low, p.prefill_high);
  ParseRange(field["decode_range"], p.decode_low, p.decode_high);
  p.device_hit_rate = Number(field["device_hit_rate"]);
  p.rates = Text(field["rates"]);
  p.statistics = Flag(field["statistics"]);
  p.prefill_step = ParseStep(field["prefill_step"]);
  p.decode_step = ParseStep(field["decode_step"]);
  return p;
}

}  // namespace

Plan ParsePlan(const std::string& text, const std::string& file) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const Field root{json, "", file};
  if (json.is_discarded()) root.Expected("JSON");
  Plan plan;
  plan.precision = Text(root["precision"]) == "exact" ? Precision::kExact : Precision::kFast;
  plan.kv_type = ParseType(root["kv_type"]);
  plan.activation_type = ParseType(root["activation_type"]);
  plan.bf16_many_rows = Flag(root["bf16_many_rows"]);
  plan.f8_many_rows = Flag(root["f8_many_rows"]);
  plan.block_formats = Flag(root["block_formats"]);
  plan.kv_blocks = Integer<std::int64_t>(root["kv_blocks"]);
  plan.max_rows = Integer<std::int64_t>(root["max_rows"]);
  plan.max_sequences = Integer<std::int64_t>(root["max_sequences"]);
  plan.stream_prefill = Flag(root["stream_prefill"]);
  plan.hand_over = ParseHandOver(root["hand_over"]);
  plan.deferral = Flag(root["deferral"]);
  plan.step_ahead = ParseStepAhead(root["step_ahead"]);
  plan.stream = {Integer<std::int64_t>(root["stream_rows"]),
                 Integer<std::uint64_t>(root["stream_expert_bytes"]),
                 Integer<std::uint64_t>(root["stream_bf16_bytes"]),
                 ParseStreamMemory(root["stream_memory"])};
  plan.cache = {Integer<std::int64_t>(root["cache_slots"]),
                Integer<std::uint64_t>(root["cache_expert_bytes"]),
                Integer<std::uint64_t>(root["cache_raw_bytes"])};
  ParseHost(root["host"], plan);
  root["devices"].ForEach([&](const Field& f) { plan.devices.push_back(ParseDevice(f)); });
  root["items"].ForEach([&](const Field& f) {
    plan.items.push_back({Text(f["what"]), ParsePlace(f["place"]),
                          Integer<std::int64_t>(f["count"]), Integer<std::uint64_t>(f["bytes"])});
  });
  plan.prediction = ParsePrediction(root["prediction"]);
  plan.embedding = ParsePlace(root["embedding"]);
  plan.head = ParsePlace(root["head"]);
  root["layers"].ForEach([&](const Field& f) { plan.layers.push_back(ParseLayer(f)); });
  root["notes"].ForEach([&](const Field& f) { plan.notes.push_back(Text(f)); });
  return plan;
}

}  // namespace tandem
