#include <fmt/format.h>

#include <algorithm>

#include "placement/plan_json.h"

namespace tandem {
namespace {

// JSON on one line is YAML: texts in double quotes, lists in brackets.
std::string Flow(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

bool IsShort(const OrderedJson& json) {
  if (!json.is_structured() || json.empty()) return true;
  return json.is_array() &&
         std::ranges::none_of(json, [](const OrderedJson& item) { return item.is_object(); }) &&
         std::ranges::none_of(json, [](const OrderedJson& item) { return item.is_string(); });
}

void Write(const OrderedJson& json, std::size_t indent, std::string& text) {
  const std::string margin(indent, ' ');
  if (json.is_array()) {
    for (const OrderedJson& item : json) {
      if (IsShort(item)) {
        text += fmt::format("{}- {}\n", margin, Flow(item));
        continue;
      }
      const std::size_t begin = text.size();
      Write(item, indent + 2, text);
      text[begin + indent] = '-';  // in the first line's margin
    }
    return;
  }
  for (const auto& [key, value] : json.items()) {
    text += fmt::format("{}{}:", margin, key);
    if (IsShort(value)) {
      text += fmt::format(" {}\n", Flow(value));
    } else {
      text += "\n";
      Write(value, indent + 2, text);
    }
  }
}

}  // namespace

std::string DumpYaml(const OrderedJson& json) {
  std::string text;
  Write(json, 0, text);
  return text;
}

std::string ToYaml(const Plan& plan) { return DumpYaml(PlanJson(plan)); }

}  // namespace tandem
