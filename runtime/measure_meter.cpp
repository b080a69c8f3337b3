#include "runtime/measure_meter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>

#include "runtime/interrupt.h"

namespace tandem {

Meter::Meter(bool quick, int stages, ProgressSink* progress)
    : quick_(quick), stages_(stages), progress_(progress) {}

Meter::~Meter() {
  if (progress_ != nullptr && stage_ > 0) progress_->End();
}

void Meter::Stage(const std::string& what) {
  Check();
  if (progress_ == nullptr) return;
  if (stage_ > 0) progress_->End();
  ++stage_;
  progress_->Begin(fmt::format("measuring ({} of {}): {}", stage_, stages_, what), 0);
}

void Meter::Check() const {
  if (progress_ == nullptr) return;
  if (stage_ > 0) progress_->Update(0);
  if (progress_->Cancelled()) ThrowInterrupted();
}

RateTable FillTable(const std::array<std::vector<std::int64_t>, 3>& axes,
                    const std::function<Sample(const Sizes&)>& sample_of,
                    const std::function<double(const Sizes&)>& seconds_of, const Meter& meter) {
  std::map<Sizes, double> measured;
  std::vector<Sample> samples;
  for (const std::int64_t a : axes[0]) {
    for (const std::int64_t b : axes[1]) {
      for (const std::int64_t c : axes[2]) {
        samples.push_back(sample_of({a, b, c}));
        measured.emplace(samples.back().sizes, 0);
      }
    }
  }
  for (int pass = 0; pass < meter.passes(); ++pass) {
    for (auto& [sizes, best] : measured) {
      const double seconds = seconds_of(sizes);
      best = pass == 0 ? seconds : std::min(best, seconds);
    }
  }
  RateTable table{axes, {}};
  for (const Sample& sample : samples) {
    table.seconds.push_back(sample.factor * measured.at(sample.sizes));
  }
  return table;
}

std::vector<std::byte> WeightBytes(std::size_t bytes) {
  std::vector<std::byte> values(bytes);
  std::uint32_t state = 1;
  for (std::byte& value : values) {
    state = state * 1664525 + 1013904223;
    value = static_cast<std::byte>(0x38 | (state >> 29));
  }
  return values;
}

}  // namespace tandem
