#include "runtime/measure.h"

#include <fmt/chrono.h>

#include <ctime>

#include "memory/error.h"
#include "runtime/measure_device.h"
#include "runtime/measure_host.h"

namespace tandem {
namespace {

std::string UtcNow() {
  return fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::time(nullptr)));
}

}  // namespace

Measurement MeasureRates(const Machine& machine, const MeasureOptions& options,
                         ProgressSink* progress) {
  const std::size_t devices = options.devices ? machine.devices.size() : 0;
  Meter meter(options.quick, HostStages(machine) + kDeviceStages * static_cast<int>(devices),
              progress);
  Measurement measurement;
  Rates& rates = measurement.rates;
  rates.origin = RatesOrigin::kMeasured;
  rates.when = UtcNow();
  rates.host = MeasureHost(machine, meter);
  for (std::size_t i = 0; i < devices; ++i) {
    try {
      rates.devices.push_back(MeasureDevice(machine, machine.devices[i], meter));
    } catch (const OpenClError& error) {
      measurement.problems.push_back(fmt::format("device {} ({}): {}", machine.devices[i].index,
                                                 machine.devices[i].name, error.what()));
    }
  }
  return measurement;
}

}  // namespace tandem
