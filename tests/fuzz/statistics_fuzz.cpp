// Feeds any bytes to the parser of routing statistics. What is accepted must be usable: it writes
// and reads back as the same, merges with itself, and gives shares and hit rates between 0 and 1.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "memory/error.h"
#include "placement/hit_rate.h"
#include "placement/statistics.h"

namespace {

using tandem::Phase;

void CheckRate(double rate) { TANDEM_CHECK(rate >= 0 && rate <= 1 + 1e-9); }

void CheckPhase(const tandem::RoutingStatistics& s, Phase phase) {
  const tandem::RoutingCounts total = s.Total(phase);
  const std::int64_t n = tandem::ExpertsOfPercent(s.experts, 25);
  const tandem::CacheHitRates caches = tandem::HitRatesOfCaches(total, n);
  for (const double rate : {caches.lru, caches.lfu, caches.best_fixed, caches.best_fixed_fetches}) {
    CheckRate(rate);
  }
  CheckRate(tandem::HitRatesOfPlan(s, phase, total, n).planned);
  TANDEM_CHECK(std::isfinite(tandem::ExpertsPerChunk(total)));
  for (std::int64_t layer = 0; layer < std::min<std::int64_t>(s.layers, 8); ++layer) {
    const std::vector<double> shares = s.Shares(phase, layer);
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    TANDEM_CHECK(std::abs(sum - 1) < 1e-9);
    CheckRate(tandem::RelativeEntropy(shares));
  }
}

void Use(tandem::RoutingStatistics s) {
  const std::string json = tandem::ToJson(s);
  TANDEM_CHECK(tandem::ToJson(tandem::ParseStatistics(json, "again.json")) == json);
  try {
    const tandem::RoutingStatistics copy = s;
    tandem::Merge(s, copy);
    tandem::ParseStatistics(tandem::ToJson(s), "merged.json");
    CheckPhase(s, Phase::kPrefill);
    CheckPhase(s, Phase::kDecode);
  } catch (const tandem::ConfigError&) {  // too many tokens, or domains of different layers
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    Use(tandem::ParseStatistics(text, "stats.json"));
  } catch (const tandem::CheckpointError& error) {  // the one way in which a bad file may end
    TANDEM_CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
  return 0;
}
