// The OpenCL kernels, launched as a step launches them, back to back in the in-order queue.
#include "runtime/measure_device.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"
#include "placement/profile.h"
#include "placement/resources.h"
#include "runtime/device_read.h"
#include "runtime/measure_device_work.h"
#include "runtime/measure_link.h"

namespace tandem {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr DType kFormats[] = {DType::kF32,    DType::kBF16, DType::kF16,
                              DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K};

struct Grid {
  std::vector<std::int64_t> n, k, rows;
  std::vector<std::int64_t> experts, expert_rows;
  std::vector<std::int64_t> heads, attention_rows, keys;
  std::vector<std::pair<std::int64_t, std::int64_t>> expert_shapes;  // D, F: ascending D F
};

Grid GridFor(const Device& device, bool quick) {
  if (quick) {
    return {{64, 1024}, {512}, {1, 8}, {1, 4}, {1, 8}, {16}, {1, 8}, {64, 256}, {{256, 64}}};
  }
  if (device.shares_cores) {
    return {{64, 512, 2048, 8192},
            {512, 2048, 7168},
            {1, 2, 4, 8, 64, 512},
            {1, 2, 8, 64},
            {1, 2, 4, 16, 64},
            {4, 16, 128},
            {1, 8, 64},
            {64, 512, 4096},
            {{256, 64}, {2048, 1408}, {7168, 2048}}};
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

// The device of a plan that uses it and the CPU: half of the threads where it shares the cores.
PlanDevice PlanDeviceOf(const Machine& machine, const Device& device) {
  PlanDevice plan;
  plan.index = device.index;
  plan.name = device.name;
  plan.shares_cores = device.shares_cores;
  plan.threads = ShareCores(machine, Profile{}, &device).device_threads;
  plan.max_alloc_bytes = device.max_alloc_bytes;
  return plan;
}

// Of weights: what no cache holds, but a small part of a small device.
std::size_t WeightBytesFor(const Device& device, bool quick) {
  const std::size_t wanted = (quick ? 32 : device.shares_cores ? 384 : 640) * kMiB;
  const std::uint64_t most = std::min(device.max_alloc_bytes, device.memory_bytes / 4);
  return std::clamp<std::size_t>(most / kMiB * kMiB, 8 * kMiB, wanted);
}

class DeviceMeter {
 public:
  DeviceMeter(const Machine& machine, const Device& device, Meter& meter)
      : meter_(meter),
        name_(device.name),
        side_(PlanDeviceOf(machine, device)),
        grid_(GridFor(device, meter.quick())),
        work_(side_, WeightBytesFor(device, meter.quick()), device.memory_bytes / 4) {
    rates_.index = device.index;
    if (device.shares_cores) rates_.threads = PlanDeviceOf(machine, device).threads;
  }

  DeviceRates Measure() {
    Stage("compiling kernels");
    for (const DType type : kFormats) {
      meter_.Check();
      side_.kernels.Prepare({type}, DType::kF16);
    }
    Stage("memory and transfers");
    Read();
    MeasureLink(side_, work_.weights(), std::min(64 * kMiB, work_.weight_bytes()), meter_, rates_);
    ChooseBudget();
    Stage("matrix products");
    MeasureValues();
    for (const DType type : kFormats) rates_.linear[type] = Linear(type);
    Stage("experts");
    for (const DType type : kFormats) rates_.experts[type] = Experts(type);
    Stage("attention");
    rates_.attention = Attention();
    return std::move(rates_);
  }

 private:
  void Stage(const std::string& what) { meter_.Stage(name_ + ", " + what); }

  void Read() {
    const DeviceRead read(side_.device, work_.weights(), work_.weight_bytes());
    const int rounds = meter_.quick() ? 2 : 7;
    for (int i = 0; i < rounds; ++i) {
      meter_.Check();
      rates_.read_bytes_per_s = std::max(rates_.read_bytes_per_s, read.Measure());
    }
  }

  // Seconds of one launch (or group of launches) of many that are in the queue together.
  template <class Enqueue>
  double Time(Enqueue&& enqueue) {
    constexpr double kMostLaunches = 256;
    const auto batch = [&](int count) {
      meter_.Check();
      const double start = Now();
      for (int i = 0; i < count; ++i) enqueue();
      side_.device.Finish();
      return (Now() - start) / count;
    };
    const double first = batch(1);  // PoCL compiles here
    if (first > kLongLaunch) return std::min(first, batch(1));
    const double guess = batch(2);
    return batch(static_cast<int>(std::clamp(meter_.point_s() / guess, 3.0, kMostLaunches)));
  }

  // A launch may take some milliseconds.
  void ChooseBudget() {
    constexpr std::int64_t kN = 1024;
    constexpr std::int64_t kRows = 32;
    work_.Refresh(kRows * kN);
    const double seconds = Time([&] { work_.Linear(DType::kF32, kN, kN, kRows); });
    const double launch_s = meter_.quick() ? 2e-4 : 4e-3;
    flops_ = launch_s * 2.0 * kN * kN * kRows / seconds;
    bytes_ =
        std::min(launch_s * rates_.read_bytes_per_s, static_cast<double>(work_.weight_bytes()) / 2);
  }

  void MeasureValues() {
    const std::int64_t rows = meter_.quick() ? 64 : 2048;
    const double seconds = Time([&] { work_.Norm(rows); });
    const double beyond = std::max(seconds - rates_.launch_s, 0.01 * seconds);
    rates_.value_s = beyond / static_cast<double>(rows * DeviceWork::kNormWidth);
  }

  RateTable Linear(DType type) {
    const RateTable table = FillTable(
        {grid_.n, grid_.k, grid_.rows}, [&](const Sizes& s) { return LinearSample(type, s); },
        [&](const Sizes& s) {
          work_.Refresh(s[1] * s[2]);
          return Time([&] { work_.Linear(type, s[0], s[1], s[2]); });
        },
        meter_);
    std::size_t at = 0;
    for (const std::int64_t n : grid_.n) {
      for (const std::int64_t k : grid_.k) {
        for (const std::int64_t rows : grid_.rows) {
          const double flops = 2.0 * static_cast<double>(n * k * rows) / table.seconds[at++];
          rates_.gemm_flops = std::max(rates_.gemm_flops, flops);
        }
      }
    }
    return table;
  }

  // Fewer rows of the weight; the launch must still fill the device.
  Sample LinearSample(DType type, const Sizes& s) const {
    const auto [n, k, rows] = s;
    const double row_bytes = static_cast<double>(k) * BytesPerElement(type);
    const double row_flops = 2.0 * static_cast<double>(k * rows);
    const double fill = 16.0 * side_.device.info().compute_units;
    const double fit = std::max(std::min(bytes_ / row_bytes, flops_ / row_flops), fill);
    const double room = static_cast<double>(work_.weight_bytes()) / 2 / row_bytes;
    const double y_room = static_cast<double>(work_.value_room(k * rows) / rows);
    const std::int64_t measured = DeviceWork::Blocks(std::min({fit, room, y_room}), n);
    return {{measured, k, rows}, static_cast<double>(n) / static_cast<double>(measured)};
  }

  RateTable Experts(DType type) {
    RateTable table;
    table.axes[1] = grid_.experts;
    table.axes[2] = grid_.expert_rows;
    for (const auto& [D, F] : grid_.expert_shapes) {
      const auto seconds_of = [&, D = D](const Sizes& s) {
        const auto [F1, experts, rows] = s;
        work_.PrepareExperts(type, D, F1, experts, rows);
        return Time([&] { work_.Experts(); });
      };
      const RateTable part = FillTable(
          {{{F}, grid_.experts, grid_.expert_rows}},
          [&, D = D](const Sizes& s) { return ExpertsSample(type, D, s); }, seconds_of, meter_);
      table.axes[0].push_back(3 * D * F);
      table.seconds.insert(table.seconds.end(), part.seconds.begin(), part.seconds.end());
    }
    return table;
  }

  // Fewer experts; where even one is too large, a narrower one.
  Sample ExpertsSample(DType type, std::int64_t D, const Sizes& s) const {
    const auto [F, experts, rows] = s;
    const double weights = 3.0 * static_cast<double>(D * F);
    const double bytes = weights * BytesPerElement(type);
    const double flops = 2 * weights * static_cast<double>(rows);
    const double values = static_cast<double>((2 * F + 4 * D) * rows);
    const double room = static_cast<double>(work_.weight_bytes()) / 2;
    const double fit = std::min({2 * bytes_ / bytes, 2 * flops_ / flops, room / bytes,
                                 static_cast<double>(work_.value_room(0)) / values});
    const auto measured =
        std::min(experts, std::max<std::int64_t>(1, static_cast<std::int64_t>(fit)));
    const double part =
        std::min({1.0, room / bytes, static_cast<double>(work_.value_room(0)) / values,
                  std::max(8 * flops_ / flops, 0.125)});
    const std::int64_t narrow = DeviceWork::Blocks(part * static_cast<double>(F), F);
    const double factor = static_cast<double>(experts * F) / static_cast<double>(measured * narrow);
    return {{narrow, measured, rows}, factor};
  }

  RateTable Attention() {
    return FillTable(
        {grid_.heads, grid_.attention_rows, grid_.keys},
        [&](const Sizes& s) { return AttentionSample(s); },
        [&](const Sizes& s) {
          work_.PrepareAttention(s[0], s[1], s[2]);
          return Time([&] { work_.Attention(); });
        },
        meter_);
  }

  // Fewer keys; fewer rows, but as many as fill the device.
  Sample AttentionSample(const Sizes& s) const {
    const auto [heads, rows, keys] = s;
    constexpr double kFlopsPerKey = 2.0 * (576 + 512);
    const auto too_much = [&, heads = heads](std::int64_t some_rows, std::int64_t some_keys) {
      return kFlopsPerKey * static_cast<double>(heads * some_rows * some_keys) > 4 * flops_;
    };
    std::int64_t fewer = rows;
    std::int64_t shorter = keys;
    while (shorter > work_.most_keys(fewer)) shorter /= 2;
    while (shorter > kLeastKeys && too_much(fewer, shorter)) shorter /= 2;
    const std::int64_t fill = 64 * static_cast<std::int64_t>(side_.device.info().compute_units);
    const std::int64_t room = work_.value_room(0) / DeviceWork::kHeadValues;
    while (fewer > 1 &&
           (fewer * heads > room || (fewer * heads > 2 * fill && too_much(fewer, shorter)))) {
      fewer /= 2;
    }
    return {{heads, fewer, shorter},
            static_cast<double>(rows * keys) / static_cast<double>(fewer * shorter)};
  }

  static constexpr double kLongLaunch = 0.008;
  static constexpr std::int64_t kLeastKeys = 512;

  Meter& meter_;
  std::string name_;
  DeviceSide side_;
  Grid grid_;
  DeviceWork work_;
  double flops_ = 0;  // of one launch, about
  double bytes_ = 0;
  DeviceRates rates_;
};

}  // namespace

DeviceRates MeasureDevice(const Machine& machine, const Device& device, Meter& meter) {
  return DeviceMeter(machine, device, meter).Measure();
}

}  // namespace tandem
