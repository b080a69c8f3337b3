#include "runtime/bench_kernels_traits.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>

#include "memory/error.h"

namespace tandem {
namespace {

using cl::DeviceTraits;

struct Tunable {
  std::string_view name;
  std::vector<std::int64_t> values;  // empty: from 1 on
  void (*set)(DeviceTraits&, std::int64_t);
};

// The kernels keep one team's sums in registers and halve groups when they reduce.
const std::vector<Tunable>& Tunables() {
  static const std::vector<Tunable> list = {
      {"teams",
       {1, 2, 4, 8, 16},
       [](DeviceTraits& t, std::int64_t v) { t.teams = static_cast<int>(v); }},
      {"wide_rows",
       {2, 4, 8},
       [](DeviceTraits& t, std::int64_t v) { t.wide_rows = static_cast<int>(v); }},
      {"max_rows",
       {4, 8},
       [](DeviceTraits& t, std::int64_t v) { t.max_rows = static_cast<int>(v); }},
      {"group",
       {1, 32, 64, 128, 256, 512, 1024},
       [](DeviceTraits& t, std::int64_t v) { t.group = static_cast<int>(v); }},
      {"few_rows_max", {}, [](DeviceTraits& t, std::int64_t v) { t.few_rows_max = v; }},
      {"wide_min_groups", {}, [](DeviceTraits& t, std::int64_t v) { t.wide_min_groups = v; }},
      {"wgmma_products", {1}, [](DeviceTraits& t, std::int64_t v) { t.wgmma_products = v != 0; }}};
  return list;
}

const Tunable& Find(std::string_view name, const std::string& change) {
  std::vector<std::string_view> names;
  for (const Tunable& tunable : Tunables()) {
    if (tunable.name == name) return tunable;
    names.push_back(tunable.name);
  }
  Throw<UsageError>("--with {}: expected NAME=VALUE with one of {}", change,
                    fmt::join(names, ", "));
}

std::int64_t Value(const Tunable& tunable, std::string_view text, const std::string& change) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool known =
      tunable.values.empty() || std::ranges::find(tunable.values, value) != tunable.values.end();
  if (error == std::errc() && stop == end && value >= 1 && known) return value;
  Throw<UsageError>("--with {}: {} is {}", change, tunable.name,
                    tunable.values.empty()
                        ? "a number from 1 on"
                        : fmt::format("one of {}", fmt::join(tunable.values, ", ")));
}

}  // namespace

DeviceTraits WithTraits(DeviceTraits traits, const std::vector<std::string>& changes,
                        std::uint64_t most_items) {
  for (const std::string& change : changes) {
    const std::string_view all = change;
    const std::size_t equals = std::min(all.find('='), all.size());
    const Tunable& tunable = Find(all.substr(0, equals), change);
    tunable.set(traits, Value(tunable, all.substr(std::min(equals + 1, all.size())), change));
  }
  const int items = std::max(traits.group_size(), traits.group);
  if (static_cast<std::uint64_t>(items) > most_items) {
    Throw<UsageError>("--with {}: work-groups of {} work-items, the device takes {}",
                      fmt::join(changes, ","), items, most_items);
  }
  return traits;
}

}  // namespace tandem
