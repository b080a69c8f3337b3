#include "cl_kernels/tunables.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "memory/error.h"

namespace tandem::cl {
namespace {

// As in few_rows.cl: floats of x, of sums that are exchanged, and of totals.
std::uint64_t LocalBytes(const DeviceTraits& t) {
  constexpr std::int64_t kStageFloats = 8192;
  const std::int64_t exchanged = std::int64_t{t.teams} * t.max_rows * (t.team + 1);
  const std::int64_t totals = std::int64_t{2} * t.teams * t.wide_rows * t.max_rows;
  return static_cast<std::uint64_t>(kStageFloats + exchanged + totals) * sizeof(float);
}

const Tunable& Find(std::string_view name, std::string_view where, const std::string& change) {
  std::vector<std::string_view> names;
  for (const Tunable& tunable : Tunables()) {
    if (tunable.name == name) return tunable;
    names.push_back(tunable.name);
  }
  Throw<UsageError>("{} {}: expected NAME=VALUE with one of {}", where, change,
                    fmt::join(names, ", "));
}

std::int64_t Value(const Tunable& tunable, std::string_view text, std::string_view where,
                   const std::string& change) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool any = tunable.values.empty();
  const bool known = any ? value >= 1 : std::ranges::count(tunable.values, value) > 0;
  if (error == std::errc() && stop == end && known) return value;
  Throw<UsageError>(
      "{} {}: {} is {}", where, change, tunable.name,
      any ? "a number from 1 on" : fmt::format("one of {}", fmt::join(tunable.values, ", ")));
}

}  // namespace

#define TANDEM_TUNABLE(name, ...)                                                                \
  Tunable {                                                                                      \
#name, {__VA_ARGS__}, [](const DeviceTraits& t) { return static_cast<std::int64_t>(t.name); }, \
        [](DeviceTraits& t, std::int64_t v) { t.name = static_cast<decltype(t.name)>(v); } \
  }

// The kernels keep one team's sums in registers and halve teams and groups when they reduce.
const std::vector<Tunable>& Tunables() {
  static const std::vector<Tunable> list = {TANDEM_TUNABLE(wide_rows, 2, 4, 8),
                                            TANDEM_TUNABLE(teams, 1, 2, 4, 8, 16),
                                            TANDEM_TUNABLE(team, 1, 8, 16, 32, 64),
                                            TANDEM_TUNABLE(max_rows, 4, 8),
                                            TANDEM_TUNABLE(group, 1, 32, 64, 128, 256, 512, 1024),
                                            TANDEM_TUNABLE(one_row, 0, 1),
                                            TANDEM_TUNABLE(one_row_mma, 0, 1),
                                            TANDEM_TUNABLE(shared_beside_choice, 0, 1),
                                            TANDEM_TUNABLE(few_rows_max),
                                            TANDEM_TUNABLE(few_rows_fill, 0, 1),
                                            TANDEM_TUNABLE(batch_rows_min),
                                            TANDEM_TUNABLE(batch_rows_max),
                                            TANDEM_TUNABLE(wide_min_groups),
                                            TANDEM_TUNABLE(wgmma_products, 0, 1)};
  return list;
}

#undef TANDEM_TUNABLE

DeviceTraits WithShapes(DeviceTraits traits, const std::vector<std::string>& changes,
                        std::string_view where) {
  for (const std::string& change : changes) {
    const std::string_view all = change;
    const std::size_t equals = std::min(all.find('='), all.size());
    const Tunable& tunable = Find(all.substr(0, equals), where, change);
    const std::string_view value = all.substr(std::min(equals + 1, all.size()));
    tunable.set(traits, Value(tunable, value, where, change));
  }
  return traits;
}

std::string WhyNot(const DeviceTraits& t, const ClDeviceInfo& device) {
  // What a driver keeps of local memory for itself: 1,024 bytes on NVIDIA.
  constexpr std::uint64_t kKept = 1024;
  const int items = std::max(t.group_size(), t.group);
  if (static_cast<std::uint64_t>(items) > device.max_work_group_size) {
    return fmt::format("work-groups of {} work-items, the device takes {}", items,
                       device.max_work_group_size);
  }
  if (t.team == 1) return t.teams == 1 ? "" : "a team of 1 takes teams=1";
  if (t.nv_compute > 0 && t.team != 32) return "the instructions of this device need team=32";
  if (LocalBytes(t) + kKept <= device.local_mem_bytes) return "";
  return fmt::format("{} bytes of local memory, the device has {}", LocalBytes(t) + kKept,
                     device.local_mem_bytes);
}

DeviceTraits WithShapes(DeviceTraits traits, const std::vector<std::string>& changes,
                        const ClDeviceInfo& device, std::string_view where) {
  traits = WithShapes(traits, changes, where);
  const std::string why = changes.empty() ? "" : WhyNot(traits, device);
  if (why.empty()) return traits;
  Throw<UsageError>("{} {}: {}", where, fmt::join(changes, ","), why);
}

TunedShapes Checked(TunedShapes shapes, const ClDeviceInfo& device) {
  if (shapes.changes.empty()) return shapes;
  DeviceTraits traits = TableTraits(device);
  traits.nv_compute = MayTakePtx(device) ? 1 : 0;
  try {
    shapes.problem = WhyNot(WithShapes(traits, shapes.changes, "shape"), device);
  } catch (const UsageError& error) {
    if (shapes.forced) throw ConfigError(fmt::format("TANDEM_KERNEL_SHAPES: {}", error.what()));
    shapes.problem = error.what();
  }
  if (!shapes.problem.empty()) shapes.changes.clear();
  return shapes;
}

std::vector<std::string> ShapeChanges(const DeviceTraits& from, const DeviceTraits& to) {
  std::vector<std::string> changes;
  for (const Tunable& t : Tunables()) {
    if (t.get(from) != t.get(to)) changes.push_back(fmt::format("{}={}", t.name, t.get(to)));
  }
  return changes;
}

}  // namespace tandem::cl
