#include "placement/plan_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/plan_json.h"

namespace tandem {
namespace {

// What a place is called in both plans: the device's name, as their numbers may differ.
std::string PlaceName(const Plan& plan, Place place) {
  if (!place.on_device() || static_cast<std::size_t>(place.index) >= plan.devices.size()) {
    return ToString(place);
  }
  const PlanDevice& device = plan.devices[static_cast<std::size_t>(place.index)];
  return fmt::format("{} ({})", device.name, device.index);
}

std::string LayerList(const std::set<std::size_t>& layers) {
  std::string text;
  for (auto at = layers.begin(); at != layers.end();) {
    const std::size_t first = *at;
    std::size_t last = first;
    while (++at != layers.end() && *at == last + 1) last = *at;
    text += text.empty() ? "" : ",";
    text += first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
  }
  return text;
}

void CheckSameModel(const Plan& before, const Plan& after) {
  bool same = before.layers.size() == after.layers.size();
  for (std::size_t i = 0; same && i < before.layers.size(); ++i) {
    same = before.layers[i].experts.size() == after.layers[i].experts.size();
  }
  if (!same) {
    Throw<ConfigError>("the plans are of different models: {} and {} layers, or other experts",
                       before.layers.size(), after.layers.size());
  }
}

void DiffSettings(const Plan& before, const Plan& after, PlanDiff& diff) {
  const auto compare = [&](const char* name, const auto& of) {
    std::string a = of(before);
    std::string b = of(after);
    if (a != b) diff.settings.push_back({name, std::move(a), std::move(b)});
  };
  compare("precision", [](const Plan& p) {
    return std::string(p.precision == Precision::kExact ? "exact" : "fast");
  });
  compare("KV type", [](const Plan& p) { return std::string(Name(p.kv_type)); });
  compare("KV blocks", [](const Plan& p) { return std::to_string(p.kv_blocks); });
  compare("activations", [](const Plan& p) { return std::string(Name(p.activation_type)); });
  compare("activations of devices",
          [](const Plan& p) { return std::string(p.f8_many_rows ? "f8" : "auto"); });
  compare("rows of a step", [](const Plan& p) { return std::to_string(p.max_rows); });
  compare("sequences", [](const Plan& p) { return std::to_string(p.max_sequences); });
  compare("threads", [](const Plan& p) {
    std::string text;
    for (const PlanNode& node : p.nodes) {
      text += fmt::format("{}{} on node {}", text.empty() ? "" : ", ", node.cores.size(),
                          node.os_index);
    }
    return text;
  });
  compare("devices", [](const Plan& p) {
    std::string text;
    for (const PlanDevice& device : p.devices) {
      text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", device.name, device.index);
      if (device.threads > 0) text += fmt::format(" on {} threads", device.threads);
    }
    return text.empty() ? "none" : text;
  });
  compare("prefill of cold experts",
          [](const Plan& p) { return std::string(p.stream_prefill ? "streamed" : "host"); });
  compare("expert cache", [](const Plan& p) {
    return p.cache.slots == 0 ? "off" : fmt::format("{} experts", p.cache.slots);
  });
  compare("hand-over", [](const Plan& p) { return std::string(Name(p.hand_over)); });
  compare("deferral of the CPU's sums",
          [](const Plan& p) { return std::string(p.deferral ? "on" : "off"); });
  compare("steps enqueued ahead", [](const Plan& p) { return std::string(Name(p.step_ahead)); });
}

void DiffBytes(const Plan& before, const Plan& after, PlanDiff& diff) {
  std::map<std::pair<std::string, std::string>, std::pair<std::uint64_t, std::uint64_t>> lines;
  for (const PlanItem& item : before.items) {
    lines[{item.what, PlaceName(before, item.place)}].first += item.bytes;
  }
  for (const PlanItem& item : after.items) {
    lines[{item.what, PlaceName(after, item.place)}].second += item.bytes;
  }
  for (const auto& [key, bytes] : lines) {
    if (bytes.first == bytes.second) continue;
    diff.bytes.push_back({key.first, key.second, bytes.first, bytes.second});
  }
}

class Moves {
 public:
  Moves(const Plan& before, const Plan& after) : before_(before), after_(after) {}
  void Add(const char* what, std::size_t layer, Place from, Place to) {
    const std::string a = PlaceName(before_, from);
    const std::string b = PlaceName(after_, to);
    if (a == b) return;
    Entry& entry = moves_[{what, a, b}];
    entry.layers.insert(layer);
    ++entry.count;
  }
  void Take(PlanDiff& diff) const {
    for (const auto& [key, entry] : moves_) {
      const auto& [what, from, to] = key;
      diff.moves.push_back(
          {what, from, to, what == "head" ? "" : LayerList(entry.layers), entry.count});
    }
  }

 private:
  struct Entry {
    std::set<std::size_t> layers;
    std::int64_t count = 0;
  };
  const Plan& before_;
  const Plan& after_;
  std::map<std::tuple<std::string, std::string, std::string>, Entry> moves_;
};

void DiffMoves(const Plan& before, const Plan& after, PlanDiff& diff) {
  Moves moves(before, after);
  for (std::size_t i = 0; i < before.layers.size(); ++i) {
    const LayerPlan& a = before.layers[i];
    const LayerPlan& b = after.layers[i];
    moves.Add("attention and KV cache", i, a.attention, b.attention);
    if (!a.moe) {
      moves.Add("dense MLP", i, a.dense, b.dense);
      continue;
    }
    moves.Add("router", i, a.router, b.router);
    moves.Add("shared experts", i, a.shared, b.shared);
    for (std::size_t e = 0; e < a.experts.size(); ++e) {
      moves.Add("routed experts", i, a.experts[e], b.experts[e]);
    }
  }
  moves.Add("head", 0, before.head, after.head);
  moves.Take(diff);
}

std::string Signed(std::uint64_t before, std::uint64_t after) {
  return after >= before ? fmt::format("+{}", FormatBytes(after - before))
                         : fmt::format("-{}", FormatBytes(before - after));
}

}  // namespace

OrderedJson DiffJson(const PlanDiff& diff) {
  OrderedJson json{{"settings", OrderedJson::array()},
                   {"bytes", OrderedJson::array()},
                   {"moves", OrderedJson::array()},
                   {"predictions", OrderedJson::array()}};
  for (const auto& s : diff.settings) {
    json["settings"].push_back({{"name", s.name}, {"before", s.before}, {"after", s.after}});
  }
  for (const auto& b : diff.bytes) {
    json["bytes"].push_back(
        {{"what", b.what}, {"place", b.place}, {"before", b.before}, {"after", b.after}});
  }
  for (const auto& m : diff.moves) {
    json["moves"].push_back({{"what", m.what},
                             {"from", m.from},
                             {"to", m.to},
                             {"layers", m.layers},
                             {"count", m.count}});
  }
  for (const auto& s : diff.speeds) {
    json["predictions"].push_back(
        {{"name", s.name}, {"unit", s.unit}, {"before", s.before}, {"after", s.after}});
  }
  return json;
}

PlanDiff Diff(const Plan& before, const Plan& after) {
  CheckSameModel(before, after);
  PlanDiff diff;
  DiffSettings(before, after, diff);
  DiffBytes(before, after, diff);
  DiffMoves(before, after, diff);
  const Prediction& a = before.prediction;
  const Prediction& b = after.prediction;
  diff.speeds = {{"first token", "s", a.time_to_first_token_s, b.time_to_first_token_s},
                 {"prefill", "tokens/s", a.prefill_tokens_per_s, b.prefill_tokens_per_s},
                 {"decode", "tokens/s", a.decode_tokens_per_s, b.decode_tokens_per_s}};
  return diff;
}

std::string ToText(const PlanDiff& diff) {
  std::string text = diff.empty() ? "the plans place everything alike\n" : "";
  for (const auto& s : diff.settings) {
    text += fmt::format("{:<24} {} -> {}\n", s.name, s.before, s.after);
  }
  for (const auto& m : diff.moves) {
    text += fmt::format("{:<24} {} -> {}: {}{}\n", m.what, m.from, m.to, m.count,
                        m.layers.empty() ? "" : fmt::format(" (layers {})", m.layers));
  }
  for (const auto& b : diff.bytes) {
    text += fmt::format("{:<24} {}: {} -> {} ({})\n", b.what, b.place, FormatBytes(b.before),
                        FormatBytes(b.after), Signed(b.before, b.after));
  }
  for (const auto& s : diff.speeds) {
    const double change = s.before > 0 ? 100 * (s.after / s.before - 1) : 0;
    text += fmt::format("{:<24} {:.2f} -> {:.2f} {} ({:+.1f} %)\n", s.name, s.before, s.after,
                        s.unit, change);
  }
  return text;
}

std::string ToJson(const PlanDiff& diff) { return Dump(DiffJson(diff)); }

}  // namespace tandem
