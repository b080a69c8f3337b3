#include "runtime/expert_cache.h"

#include <algorithm>
#include <iterator>

#include "memory/error.h"
#include "placement/scratch.h"
#include "runtime/clock.h"
#include "runtime/expert_copy.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

bool InPanels(const MlpWeights& w) {
  return IsBlockFormat(w.gate.dtype()) || IsBlockFormat(w.up.dtype()) ||
         IsBlockFormat(w.down.dtype());
}

}  // namespace

ExpertCache::ExpertCache(const Plan& plan, const Weights& weights, HostSide& host,
                         DeviceSide& device, DeviceExperts& experts)
    : plan_(plan),
      weights_(weights),
      host_(host),
      device_(device),
      experts_(experts),
      slab_(device.Scratch("expert cache").buffer),
      raw_(device.Scratch("expert cache raw").buffer),
      slab_numbers_(experts.AddSlab(weights, slab_)),
      ring_(device.device, kCacheUnderWay * plan.cache.raw_bytes),
      copies_(device.device, DrainWatchdog()),
      under_way_(kCacheUnderWay),
      homes_(HomesOf(weights)),
      ids_(weights.layers.size()),
      policy_(homes_.size(), static_cast<std::size_t>(plan.cache.slots)) {
  for (std::size_t l = 0; l < weights.layers.size(); ++l) {
    ids_[l].assign(weights.layers[l].experts.size(), kNoId);
  }
  for (std::size_t id = 0; id < homes_.size(); ++id) {
    const Home& home = homes_[id];
    ids_[static_cast<std::size_t>(home.layer)][home.expert] = static_cast<std::int32_t>(id);
  }
}

std::vector<ExpertCache::Home> ExpertCache::HomesOf(const Weights& weights) {
  std::vector<Home> homes;
  for (std::size_t l = 0; l < weights.layers.size(); ++l) {
    const std::vector<MlpWeights>& experts = weights.layers[l].experts;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      if (!experts[e].gate.place.on_device()) homes.push_back({static_cast<int>(l), e});
    }
  }
  return homes;
}

const MlpWeights& ExpertCache::WeightsOf(const Home& home) const {
  return weights_.layers[static_cast<std::size_t>(home.layer)].experts[home.expert];
}

bool ExpertCache::Holds(int layer, std::size_t expert) const {
  const std::int32_t id = ids_[static_cast<std::size_t>(layer)][expert];
  return serves_ && id != kNoId && policy_.SlotOf(static_cast<std::size_t>(id)).has_value();
}

void ExpertCache::Count(int layer, std::span<const std::int64_t> pair_begin) {
  const std::vector<std::int32_t>& ids = ids_[static_cast<std::size_t>(layer)];
  Metrics& m = device_.metrics;
  for (std::size_t e = 0; e < ids.size(); ++e) {
    const std::int64_t pairs = pair_begin[e + 1] - pair_begin[e];
    if (pairs == 0 || ids[e] == kNoId) continue;
    policy_.Use(static_cast<std::size_t>(ids[e]));
    m.cache_pairs += pairs;
    if (Holds(layer, e)) m.cache_hits += pairs;
  }
}

void ExpertCache::BeginStep() {
  begun_ = Now();
  if (!serves_) return;
  for (std::size_t place = 0; place < under_way_.size(); ++place) {
    Copy& copy = under_way_[place];
    if (copy.exchange && IsComplete(copy.arrived, device_.device)) Adopt(copy, place);
  }
}

void ExpertCache::EndStep(std::int64_t rows) {
  policy_.EndStep();
  for (std::size_t place = 0; serves_ && place < under_way_.size(); ++place) {
    if (under_way_[place].exchange) continue;
    const std::optional<CacheExchange> exchange = policy_.Next();
    if (!exchange) break;
    Begin(under_way_[place], place, *exchange);
  }
  Follow(judge_.Step(rows, Now() - begun_));
}

void ExpertCache::Begin(Copy& copy, std::size_t place, const CacheExchange& exchange) {
  if (exchange.out) {
    SetEntry(*exchange.out, {});
    ++device_.metrics.cache_evictions;
  }
  const MlpWeights& w = WeightsOf(homes_[exchange.in]);
  const std::uint64_t from = place * plan_.cache.raw_bytes;
  const std::uint64_t bytes = CopyToRing(w, ring_.host() + from);
  const bool packed = InPanels(w);
  cl_event event = nullptr;
  ClCheck(clEnqueueWriteBuffer(copies_.get(), packed ? raw_ : slab_, CL_FALSE,
                               packed ? from : exchange.slot * plan_.cache.expert_bytes, bytes,
                               ring_.host() + from, 0, nullptr, &event),
          "clEnqueueWriteBuffer to the expert cache");
  copy.arrived.reset(event);
  copy.exchange = exchange;
  ClCheck(clFlush(copies_.get()), "clFlush");
  device_.metrics.cache_moved_bytes += bytes;
}

// An expert as it lies on the host; gives its bytes.
std::uint64_t ExpertCache::CopyToRing(const MlpWeights& w, std::byte* to) {
  std::vector<HostRun> runs;
  std::uint64_t at = 0;
  for (const Matrix* m : {&w.gate, &w.up, &w.down}) {
    std::ranges::copy(HostRuns(*m, at), std::back_inserter(runs));
    at = HostRange(*m, at).end;
  }
  TANDEM_CHECK(at <= plan_.cache.raw_bytes);
  host_.pool.Run([&](const Worker& worker) {
    for (const HostRun& run : runs) CopyShare(to + run.at, run.from, run.bytes, worker);
  });
  return at;
}

void ExpertCache::Adopt(Copy& copy, std::size_t place) {
  const CacheExchange exchange = *copy.exchange;
  const MlpWeights& w = WeightsOf(homes_[exchange.in]);
  if (InPanels(w)) Split(w, place, exchange.slot);
  copy.exchange.reset();
  copy.arrived.reset();
  policy_.Arrived(exchange);
  SetEntry(exchange.in, EntryInSlot(exchange.in, exchange.slot));
  ++device_.metrics.cache_admissions;
}

// Matrices in no block format beside those in panels are copied.
void ExpertCache::Split(const MlpWeights& w, std::size_t place, std::size_t slot) {
  std::uint64_t from = place * plan_.cache.raw_bytes;
  std::uint64_t to = slot * plan_.cache.expert_bytes;
  for (const Matrix* m : {&w.gate, &w.up, &w.down}) {
    const MatrixRange raw = HostRange(*m, from);
    const MatrixRange split = DeviceRange(*m, to);
    if (IsBlockFormat(m->dtype())) {
      device_.kernels.PanelSplit(
          {raw_, raw.data, m->dtype(), m->rows(), m->cols(), slab_, split.data, split.side});
    } else {
      device_.device.Copy(raw_, raw.data, slab_, split.data, raw.end - raw.data);
    }
    from = raw.end;
    to = split.end;
  }
}

cl::ExpertEntry ExpertCache::EntryInSlot(std::size_t id, std::size_t slot) const {
  const Home& home = homes_[id];
  const MlpWeights& w = WeightsOf(home);
  const MatrixRange gate = DeviceRange(w.gate, slot * plan_.cache.expert_bytes);
  const MatrixRange up = DeviceRange(w.up, gate.end);
  const MatrixRange down = DeviceRange(w.down, up.end);
  return {gate.data,
          gate.side,
          up.data,
          up.side,
          down.data,
          down.side,
          slab_numbers_[static_cast<std::size_t>(home.layer)],
          static_cast<cl_int>(w.gate.rows())};
}

void ExpertCache::SetEntry(std::size_t id, const cl::ExpertEntry& entry) {
  experts_.SetEntry(homes_[id].layer, homes_[id].expert, entry);
}

// All that has arrived is shown to the device, or hidden from it.
void ExpertCache::Serve(bool serves) {
  serves_ = serves;
  for (std::size_t slot = 0; slot < static_cast<std::size_t>(plan_.cache.slots); ++slot) {
    const std::optional<std::size_t> id = policy_.ExpertIn(slot);
    if (id) SetEntry(*id, serves ? EntryInSlot(*id, slot) : cl::ExpertEntry{});
  }
}

void ExpertCache::Follow(CacheJudge::Verdict verdict) {
  using Verdict = CacheJudge::Verdict;
  if (verdict == Verdict::kPause) Serve(false);
  if (verdict == Verdict::kResume) Serve(true);
  if (verdict == Verdict::kOff) off_ = judge_.Why();  // it was paused
}

}  // namespace tandem
