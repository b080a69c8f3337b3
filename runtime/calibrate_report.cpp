#include "runtime/calibrate_report.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "placement/hit_rate.h"
#include "runtime/table.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<int, 3> kHotPercents = {10, 25, 50};
constexpr std::array<int, 6> kCachePercents = {5, 10, 25, 50, 75, 90};
constexpr std::array<Phase, kNumPhases> kPhases = {Phase::kPrefill, Phase::kDecode};

const char* Name(Phase phase) { return phase == Phase::kPrefill ? "prefill" : "decode"; }
std::string Percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

Table::Column Right(std::string title) { return {std::move(title), Table::Align::kRight}; }

// Cache sizes in experts per layer, each once.
std::set<std::int64_t> CacheSizes(std::int64_t experts) {
  std::set<std::int64_t> sizes;
  for (const int percent : kCachePercents) sizes.insert(ExpertsOfPercent(experts, percent));
  return sizes;
}

std::vector<std::int64_t> CountedLayers(const RoutingCounts& counts) {
  std::vector<std::int64_t> layers;
  for (std::size_t l = 0; l < counts.counts.size(); ++l) {
    if (!counts.counts[l].empty()) layers.push_back(static_cast<std::int64_t>(l));
  }
  return layers;
}

std::string LayersText(const RoutingStatistics& s, Phase phase, const RoutingCounts& total) {
  std::vector<Table::Column> columns = {Right("layer")};
  for (const int percent : kHotPercents) {
    columns.push_back(
        Right(fmt::format("hottest {} % (N={})", percent, ExpertsOfPercent(s.experts, percent))));
  }
  columns.push_back(Right("entropy"));
  columns.push_back(Right("imbalance"));
  Table table(columns);
  for (const std::int64_t layer : CountedLayers(total)) {
    const std::vector<double> shares = s.Shares(phase, layer);
    std::vector<std::string> row = {std::to_string(layer)};
    for (const int percent : kHotPercents) {
      row.push_back(Percent(TopShare(shares, ExpertsOfPercent(s.experts, percent))));
    }
    row.push_back(fmt::format("{:.3f}", RelativeEntropy(shares)));
    row.push_back(fmt::format("{:.2f}", Imbalance(shares)));
    table.Add(row);
  }
  return table.ToText();
}

// A rate whose lists were not recorded is not 0 but unknown.
std::string RateOrDash(double rate, bool known) { return known ? Percent(rate) : "-"; }

std::string CachesText(const RoutingStatistics& s, Phase phase, const RoutingCounts& total) {
  std::vector<Table::Column> columns = {Right("N"), Right("of all"), Right("LRU"), Right("LFU"),
                                        Right("best fixed set")};
  if (phase == Phase::kPrefill) columns.push_back(Right("fetches per chunk it saves"));
  Table table(columns);
  for (const std::int64_t n : CacheSizes(s.experts)) {
    const CacheHitRates rates = HitRatesOfCaches(total, n);
    std::vector<std::string> row = {
        std::to_string(n), Percent(static_cast<double>(n) / static_cast<double>(s.experts)),
        RateOrDash(rates.lru, !total.distances.empty()),
        RateOrDash(rates.lfu, !total.ranks.empty()), Percent(rates.best_fixed)};
    if (phase == Phase::kPrefill) {
      row.push_back(RateOrDash(rates.best_fixed_fetches, !total.chunk_uses.empty()));
    }
    table.Add(row);
  }
  return table.ToText();
}

std::string PhaseText(const RoutingStatistics& s, Phase phase) {
  const RoutingCounts total = s.Total(phase);
  if (total.tokens == 0) return fmt::format("\n{}: nothing was counted\n", Name(phase));
  std::string chunks;
  if (phase == Phase::kPrefill && total.chunks > 0) {
    chunks = fmt::format(" in {} chunks, which need {:.1f} of {} experts each in a layer",
                         total.chunks, ExpertsPerChunk(total), s.experts);
  }
  return fmt::format("\n{}: {} tokens{}\nShare of choices\n{}\nHit rate of N experts per layer\n{}",
                     Name(phase), total.tokens, chunks, LayersText(s, phase, total),
                     CachesText(s, phase, total));
}

// How well the hot set over all texts serves each one of them.
std::string DomainsText(const RoutingStatistics& s) {
  if (s.domains.size() < 2) return "";
  const std::int64_t n = ExpertsOfPercent(s.experts, 25);
  Table table({{"text", Table::Align::kLeft},
               Right("prefill tokens"),
               Right("decode tokens"),
               Right("in decode, hottest of all texts"),
               Right("of this text")});
  for (const RoutingDomain& domain : s.domains) {
    const RoutingCounts& decode = domain.phases[1];
    const DeviceHitRates rates = HitRatesOfPlan(s, Phase::kDecode, decode, n);
    const bool counted = decode.tokens > 0;
    table.Add({domain.name, std::to_string(domain.phases[0].tokens), std::to_string(decode.tokens),
               RateOrDash(rates.planned, counted), RateOrDash(rates.best_fixed, counted)});
  }
  return fmt::format("\nHit rate of the 25 % hottest experts (N={}), text by text\n{}", n,
                     table.ToText());
}

Json LayersJson(const RoutingStatistics& s, Phase phase, const RoutingCounts& total) {
  Json layers = Json::array();
  for (const std::int64_t layer : CountedLayers(total)) {
    const std::vector<double> shares = s.Shares(phase, layer);
    Json one = {{"layer", layer}};
    for (const int percent : kHotPercents) {
      one[fmt::format("hottest_{}_percent", percent)] =
          TopShare(shares, ExpertsOfPercent(s.experts, percent));
    }
    one["entropy"] = RelativeEntropy(shares);
    one["imbalance"] = Imbalance(shares);
    layers.push_back(one);
  }
  return layers;
}

Json RateOrNull(double rate, bool known) { return known ? Json(rate) : Json(); }

Json PhaseJson(const RoutingStatistics& s, Phase phase) {
  const RoutingCounts total = s.Total(phase);
  Json caches = Json::array();
  for (const std::int64_t n : CacheSizes(s.experts)) {
    const CacheHitRates rates = HitRatesOfCaches(total, n);
    caches.push_back(
        {{"experts", n},
         {"lru", RateOrNull(rates.lru, !total.distances.empty())},
         {"lfu", RateOrNull(rates.lfu, !total.ranks.empty())},
         {"best_fixed", RateOrNull(rates.best_fixed, total.tokens > 0)},
         {"best_fixed_fetches", RateOrNull(rates.best_fixed_fetches, !total.chunk_uses.empty())}});
  }
  return {{"tokens", total.tokens},
          {"chunks", total.chunks},
          {"experts_per_chunk", ExpertsPerChunk(total)},
          {"layers", LayersJson(s, phase, total)},
          {"caches", caches}};
}

Json HotSetRow(Phase phase, int percent, std::int64_t n, const DeviceHitRates& rates) {
  return {{"phase", Name(phase)},         {"percent", percent},   {"experts", n},
          {"planned", rates.planned},     {"by_id", rates.by_id}, {"uniform", rates.uniform},
          {"hindsight", rates.best_fixed}};
}

std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string CalibrationReport(const RoutingStatistics& s) {
  std::string text = fmt::format("{}: {} of {} experts per token, fingerprint {}\n", s.model,
                                 s.experts_per_token, s.experts, s.fingerprint);
  for (const Phase phase : kPhases) text += PhaseText(s, phase);
  return text + DomainsText(s);
}

std::string CalibrationJson(const RoutingStatistics& s) {
  Json json = {{"model", s.model},
               {"fingerprint", s.fingerprint},
               {"experts", s.experts},
               {"experts_per_token", s.experts_per_token},
               {"texts", Json::array()}};
  for (const RoutingDomain& domain : s.domains) {
    json["texts"].push_back({{"name", domain.name},
                             {"prefill_tokens", domain.phases[0].tokens},
                             {"decode_tokens", domain.phases[1].tokens}});
  }
  for (const Phase phase : kPhases) json[Name(phase)] = PhaseJson(s, phase);
  return Dump(json);
}

std::string HotSetText(const RoutingStatistics& planned_with, const RoutingStatistics& counted) {
  Table table({{"phase", Table::Align::kLeft},
               Right("experts on device"),
               Right("planned hot set"),
               Right("first by id"),
               Right("uniform (mean)"),
               Right("hindsight")});
  for (const Phase phase : kPhases) {
    const RoutingCounts total = counted.Total(phase);
    if (total.tokens == 0) continue;
    for (const int percent : kHotPercents) {
      const std::int64_t n = ExpertsOfPercent(counted.experts, percent);
      const DeviceHitRates rates = HitRatesOfPlan(planned_with, phase, total, n);
      table.Add({Name(phase), fmt::format("{} % ({})", percent, n), Percent(rates.planned),
                 Percent(rates.by_id), Percent(rates.uniform), Percent(rates.best_fixed)});
    }
  }
  return fmt::format(
      "Share of choices that find their expert on the device ({} tokens in prefill, "
      "{} in decode)\n{}",
      counted.Total(Phase::kPrefill).tokens, counted.Total(Phase::kDecode).tokens, table.ToText());
}

std::string HotSetJson(const RoutingStatistics& planned_with, const RoutingStatistics& counted) {
  Json rows = Json::array();
  for (const Phase phase : kPhases) {
    const RoutingCounts total = counted.Total(phase);
    if (total.tokens == 0) continue;
    for (const int percent : kHotPercents) {
      const std::int64_t n = ExpertsOfPercent(counted.experts, percent);
      rows.push_back(HotSetRow(phase, percent, n, HitRatesOfPlan(planned_with, phase, total, n)));
    }
  }
  return Dump({{"prefill_tokens", counted.Total(Phase::kPrefill).tokens},
               {"decode_tokens", counted.Total(Phase::kDecode).tokens},
               {"hit_rates", rows}});
}

}  // namespace tandem
