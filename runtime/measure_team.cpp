// The operations of the CPU team, each through the function that a step calls.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "memory/error.h"
#include "placement/profile.h"
#include "placement/resources.h"
#include "placement/scratch.h"
#include "runtime/measure_host.h"
#include "runtime/measure_layer.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
// The other block formats cost what the nearer of these two costs per byte.
constexpr DType kFormats[] = {DType::kF32,    DType::kBF16, DType::kF16,
                              DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K};
constexpr std::int64_t kMostRows = 512;

struct Grid {
  std::vector<std::int64_t> n, k, rows;                              // linear
  std::vector<std::int64_t> experts, expert_rows;                    // experts
  std::vector<std::int64_t> heads, attention_rows, keys;             // attention
  std::vector<std::pair<std::int64_t, std::int64_t>> expert_shapes;  // D, F: ascending D F
};

// All threads: what most plans run. Fewer: coarser, so that the whole takes half a minute.
Grid GridFor(bool full, bool quick) {
  if (quick) {
    return {{64, 4096}, {512, 2048}, {1, 8, 64},
            {1, 8},     {1, 16},     {16},
            {1, 32},    {64, 1024},  {{256, 64}, {2048, 512}}};
  }
  if (!full) {
    return {{64, 1024, 8192}, {512, 2048, 7168}, {1, 4, 16, 64, 512},
            {1, 2, 8, 64},    {1, 4, 16, 64},    {4, 16, 128},
            {1, 8, 512},      {64, 1024, 16384}, {{256, 64}, {2048, 1408}, {7168, 2048}}};
  }
  return {{64, 512, 2048, 8192, 32768},
          {512, 2048, 7168},
          {1, 2, 4, 8, 16, 32, 64, 128, 512},
          {1, 2, 4, 8, 32, 64, 256},
          {1, 2, 4, 8, 16, 32, 64, 128},
          {4, 16, 128},
          {1, 8, 64, 512},
          {64, 512, 4096, 16384},
          {{256, 64}, {2048, 1408}, {7168, 2048}}};
}

// Activations of a step with their shadows, touched.
class Rows {
 public:
  explicit Rows(std::int64_t width)
      : values_(kMostRows * width),
        f32_(static_cast<std::size_t>(values_) * sizeof(float)),
        bf16_(static_cast<std::size_t>(values_) * sizeof(std::uint16_t)),
        q8_(static_cast<std::size_t>(QuantizedFloats(values_)) * sizeof(float)) {
    std::fill_n(data(), values_, 0.01F);
  }
  float* data() const { return f32_.as<float>(); }
  // As rows of `width` values, the first `rows` of them with their shadows.
  HostRows Shaded(const cpu::KernelTable& kernels, std::int64_t rows, std::int64_t width) const {
    const HostActivation x(data(), bf16_.as<std::uint16_t>(), q8_.as<float>(), values_, width);
    for (std::int64_t t = 0; t < rows; ++t) x.Shade(kernels, t, 0, width);
    return x.rows();
  }

 private:
  std::int64_t values_;
  HostBuffer f32_, bf16_, q8_;
};

// What one timed call may cost at most; beyond that it is measured smaller and scaled.
struct Budget {
  double flops = 0;
  double bytes = 0;
};

class Team {
 public:
  Team(const Machine& machine, int threads, MeasuredWeights& weights, Meter& meter)
      : meter_(meter),
        plan_(PlanFor(machine, threads)),
        host_(plan_, Config{}),
        pin_(host_.pool),
        weights_(weights),
        grid_(GridFor(threads == TeamSizes(machine).back(), meter.quick())),
        name_(fmt::format("{} thread{}", threads, threads == 1 ? "" : "s")) {
    rates_.threads = threads;
    weights_.ShareOut(plan_.nodes);
    const double quick = meter.quick() ? 0.1 : 1;
    budget_ = {quick * 2e8 * std::sqrt(static_cast<double>(threads)),
               quick * 8.0 * kMiB * std::sqrt(static_cast<double>(threads))};
  }

  TeamRates Measure() {
    meter_.Stage(name_ + ", matrix products");
    Overheads();
    for (const DType type : kFormats) rates_.linear[type] = Linear(type);
    meter_.Stage(name_ + ", experts");
    for (const DType type : kFormats) rates_.experts[type] = Experts(type);
    meter_.Stage(name_ + ", attention");
    rates_.attention = AttentionTable();
    return std::move(rates_);
  }

 private:
  static Plan PlanFor(const Machine& machine, int threads) {
    Plan plan;
    Profile profile;
    profile.threads = threads;
    plan.nodes = ShareCores(machine, profile, nullptr).nodes;
    // Half of the cores beside a device on the other half: the team sleeps soon, as it does there.
    for (const Device& device : machine.devices) {
      if (!device.shares_cores || threads == TeamSizes(machine).back()) continue;
      PlanDevice beside;
      beside.shares_cores = true;
      plan.devices = {beside};
    }
    plan.max_rows = kMostRows;
    plan.bf16_many_rows = plan.block_formats = true;
    plan.kv_blocks = 1;
    return plan;
  }

  double MostBytes() const { return static_cast<double>(weights_.most_bytes()); }

  void Overheads() {
    rates_.hand_out_s =
        meter_.Best([&] { host_.pool.Run([&](const Worker&) { host_.pool.Barrier(); }); });
    constexpr std::int64_t kWidth = 2048;
    const Rows x(kWidth);
    const Rows y(kWidth);
    Vector w;
    w.host.assign(kWidth, 1.0F);
    const double seconds = meter_.Best([&] {
      RmsNormOnHost(host_, x.data(), kWidth, w, {y.data(), kWidth}, kWidth, kMostRows, 1e-6);
    });
    rates_.value_s = seconds / static_cast<double>(kMostRows * kWidth);
  }

  RateTable Linear(DType type) {
    const Rows x(grid_.k.back());
    const Rows y(grid_.n.back());
    Matrix w;
    const auto seconds_of = [&](const Sizes& s) {
      const auto [n, k, rows] = s;
      const HostRows x_rows = x.Shaded(host_.kernels, rows, k);
      const HostLinear task{&w, x_rows, nullptr, y.data(), n, rows, false};
      return meter_.Time([&] { w = weights_.Next(type, n, k); },
                         [&] {
                           LinearOnHost(host_, {&task, 1});
                         });
    };
    return FillTable(
        {grid_.n, grid_.k, grid_.rows}, [&](const Sizes& s) { return LinearSample(type, s); },
        seconds_of, meter_);
  }

  // Fewer rows of the weight, but as many as give every worker its tickets of full size.
  Sample LinearSample(DType type, const Sizes& s) const {
    const auto [n, k, rows] = s;
    const double row_bytes = static_cast<double>(k) * BytesPerElement(type);
    const double row_flops = 2.0 * static_cast<double>(k * rows);
    const double fit = std::min(budget_.bytes / row_bytes, budget_.flops / row_flops);
    const double tickets = FullTicketRows(rows);
    const double most = std::min(std::max(fit, tickets), MostBytes() / row_bytes);
    const std::int64_t measured = Rounded(most, n);
    return {{measured, k, rows}, static_cast<double>(n) / static_cast<double>(measured)};
  }

  // Rows of weights that are handed out in the largest tickets, six for each worker.
  double FullTicketRows(std::int64_t rows) const {
    return meter_.quick() ? 0 : 6.0 * host_.pool.size() * static_cast<double>(MostTicketRows(rows));
  }

  // `most`, in whole blocks of 128 rows, but at least one and no more than n.
  static std::int64_t Rounded(double most, std::int64_t n) {
    const auto blocks = static_cast<std::int64_t>(most / kFp8Block);
    return std::min(n, std::max<std::int64_t>(1, blocks) * kFp8Block);
  }

  RateTable Experts(DType type) {
    RateTable table;
    table.axes[1] = grid_.experts;
    table.axes[2] = grid_.expert_rows;
    const std::int64_t most_pairs = grid_.experts.back() * grid_.expert_rows.back();
    for (const auto& [D, F] : grid_.expert_shapes) {
      HostLayerBench layer(weights_, HostLayerBench::ExpertsConfig(D, F, most_pairs), plan_);
      const auto seconds_of = [&, D = D](const Sizes& s) {
        const auto [F1, experts, rows] = s;
        return meter_.Time([&] { layer.PrepareExperts(type, experts, rows, F1); },
                           [&] { layer.RunExperts(); });
      };
      const RateTable part = FillTable(
          {{{F}, grid_.experts, grid_.expert_rows}},
          [&, D = D](const Sizes& s) { return ExpertsSample(type, D, s); }, seconds_of, meter_);
      table.axes[0].push_back(3 * D * F);
      table.seconds.insert(table.seconds.end(), part.seconds.begin(), part.seconds.end());
    }
    return table;
  }

  // Fewer experts, but as many as give every worker its tickets of full size.
  Sample ExpertsSample(DType type, std::int64_t D, const Sizes& s) const {
    const auto [F, experts, rows] = s;
    const double bytes = 3.0 * static_cast<double>(D * F) * BytesPerElement(type);
    const double flops = 6.0 * static_cast<double>(D * F * rows);
    const double fit = std::min(budget_.bytes / bytes, budget_.flops / flops);
    const double tickets = 2.0 * FullTicketRows(rows) / (2.0 * static_cast<double>(F));
    const double room = MostBytes() / bytes;
    const double most = std::ceil(std::min(std::max(fit, tickets), room));
    const auto measured = std::min(experts, static_cast<std::int64_t>(most));
    const std::int64_t narrow = room < 1 ? Rounded(room * static_cast<double>(F), F) : F;
    return {{narrow, measured, rows},
            static_cast<double>(experts * F) / static_cast<double>(measured * narrow)};
  }

  RateTable AttentionTable() {
    RateTable table;
    table.axes = {grid_.heads, grid_.attention_rows, grid_.keys};
    Plan plan = plan_;
    const std::int64_t longest = grid_.keys.back() / kKvBlock;
    plan.kv_blocks = std::max<std::int64_t>(meter_.quick() ? 64 : 2048, 8 * longest);
    for (const std::int64_t heads : grid_.heads) {
      HostLayerBench layer(weights_, HostLayerBench::AttentionConfig(heads), plan);
      const auto seconds_of = [&](const Sizes& s) {
        return meter_.Time([&] { layer.PrepareAttention(s[1], s[2]); },
                           [&] { layer.RunAttention(); });
      };
      const RateTable part = FillTable(
          {{{heads}, grid_.attention_rows, grid_.keys}},
          [&](const Sizes& s) { return AttentionSample(s); }, seconds_of, meter_);
      table.seconds.insert(table.seconds.end(), part.seconds.begin(), part.seconds.end());
    }
    return table;
  }

  // Fewer rows (tiles of 16), then fewer keys: both scale.
  Sample AttentionSample(const Sizes& s) const {
    const auto [heads, rows, keys] = s;
    constexpr double kFlopsPerKey = 2.0 * (576 + 512);
    const auto too_much = [&, heads = heads](std::int64_t some_rows, std::int64_t some_keys) {
      return kFlopsPerKey * static_cast<double>(heads * some_rows * some_keys) > 4 * budget_.flops;
    };
    std::int64_t fewer = rows;
    while (fewer > kRowTile * FullTickets(heads) && too_much(fewer, keys)) fewer /= 2;
    std::int64_t shorter = keys;
    while (shorter > kLeastKeys && too_much(fewer, shorter)) shorter /= 2;
    return {{heads, fewer, shorter},
            static_cast<double>(rows * keys) / static_cast<double>(fewer * shorter)};
  }

  // Tiles of rows from which on every worker takes tickets of as many heads as share a pass.
  std::int64_t FullTickets(std::int64_t heads) const {
    constexpr std::int64_t kHeadGroup = 16;
    return (std::min(heads, kHeadGroup) * host_.pool.size() + heads - 1) / heads;
  }

  static constexpr std::int64_t kRowTile = 16;
  static constexpr std::int64_t kLeastKeys = 1024;

  Meter& meter_;
  Plan plan_;
  HostSide host_;
  WorkerPool::CallerPin pin_;
  MeasuredWeights& weights_;
  Grid grid_;
  std::string name_;
  Budget budget_;
  TeamRates rates_;
};

}  // namespace

TeamRates MeasureTeam(const Machine& machine, int threads, MeasuredWeights& weights, Meter& meter) {
  return Team(machine, threads, weights, meter).Measure();
}

}  // namespace tandem
