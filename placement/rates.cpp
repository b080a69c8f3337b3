#include "placement/rates.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"

namespace tandem {
namespace {

// Where `x` lies on an axis: between points `low` and `low + 1`, `weight` of the way in logarithms;
// above 1 beyond the end, 0 below the beginning.
struct Spot {
  std::size_t low = 0;
  double weight = 0;
};

Spot Locate(const std::vector<std::int64_t>& axis, double x) {
  if (axis.size() == 1 || x <= static_cast<double>(axis.front())) return {};
  const auto above = std::upper_bound(axis.begin(), axis.end(), x,
                                      [](double v, std::int64_t a) { return v < double(a); });
  const auto index = static_cast<std::size_t>(above - axis.begin());
  const std::size_t low = std::min(index, axis.size() - 1) - 1;
  const double from = std::log(static_cast<double>(axis[low]));
  const double to = std::log(static_cast<double>(axis[low + 1]));
  return {low, (std::log(x) - from) / (to - from)};
}

}  // namespace

double RateTable::Seconds(double a, double b, double c) const {
  TANDEM_CHECK(!empty());
  const Spot spots[3] = {Locate(axes[0], a), Locate(axes[1], b), Locate(axes[2], c)};
  double log_seconds = 0;
  for (int corner = 0; corner < 8; ++corner) {
    double share = 1;
    std::size_t at = 0;
    for (int d = 0; d < 3; ++d) {
      const bool high = (corner >> d & 1) != 0;
      share *= high ? spots[d].weight : 1 - spots[d].weight;
      at = at * axes[d].size() + spots[d].low + (high && axes[d].size() > 1 ? 1 : 0);
    }
    if (share != 0) log_seconds += share * std::log(seconds[at]);
  }
  return std::exp(log_seconds);
}

bool IsValid(const RateTable& table) {
  std::size_t points = 1;
  for (const std::vector<std::int64_t>& axis : table.axes) {
    if (axis.empty() || axis.front() < 1) return false;
    if (std::adjacent_find(axis.begin(), axis.end(), std::greater_equal<>()) != axis.end()) {
      return false;
    }
    points *= axis.size();
  }
  return table.seconds.size() == points &&
         std::ranges::all_of(table.seconds, [](double s) { return std::isfinite(s) && s > 0; });
}

}  // namespace tandem
