#include "runtime/measure_link.h"

#include <algorithm>
#include <cstring>

#include "memory/cl_shared.h"
#include "memory/host_buffer.h"
#include "runtime/measure_hand_over.h"

namespace tandem {
namespace {

constexpr std::int64_t kWidth = 2048;  // a row of activations
constexpr std::size_t kRowBytes = kWidth * sizeof(float);
constexpr std::size_t kFewBytes = 256;  // a row's expert ids and weights
constexpr int kBackToBack = 200;

class Link {
 public:
  Link(DeviceSide& side, cl_mem memory, const Meter& meter)
      : side_(side),
        device_(side.device),
        memory_(memory),
        meter_(meter),
        rows_(device_.Allocate(3 * kRowBytes)),
        host_(2 * kRowBytes) {
    device_.Zero(rows_.get(), 0, rows_.bytes());
    std::memset(host_.data(), 0, host_.bytes());
  }

  double WriteRate(const void* src, std::size_t bytes) {
    return static_cast<double>(bytes) /
           meter_.Best([&] { device_.BlockingWrite(memory_, 0, src, bytes); });
  }
  double ReadRate(void* dst, std::size_t bytes) {
    return static_cast<double>(bytes) /
           meter_.Best([&] { device_.BlockingRead(memory_, 0, dst, bytes); });
  }
  // A norm of one row.
  double Launch() {
    return BackToBack([&] { Norm(); });
  }
  double Transfer() {
    return BackToBack([&] { device_.Write(rows_.get(), 0, host_.data(), kRowBytes); });
  }
  // The wait for a layer's choice of experts.
  double RoundTrip() {
    return meter_.Best([&] {
      Norm();
      ReadAndWait(kFewBytes);
    });
  }
  double HandOver() {
    constexpr HandOverShape kShape{kWidth, 8, 1};
    const auto hand_over = MakeHandOver(device_, side_.kernels, kShape);
    return MeasureHandOver(side_, *hand_over, kShape);
  }

 private:
  void Norm() {
    const cl_mem rows = rows_.get();
    side_.kernels.RmsNorm(
        {{rows, 0}, kWidth, {rows, kWidth}, {rows, 2 * kWidth}, kWidth, 1, kWidth, 1e-6F});
  }
  void ReadAndWait(std::size_t bytes) {
    const ClEventHandle done =
        side_.Read({rows_.get(), 2 * kWidth}, host_.data() + kRowBytes, bytes);
    device_.Flush();
    side_.Wait({done.get()});
  }
  template <class Enqueue>
  double BackToBack(Enqueue&& enqueue) {
    const double seconds = meter_.Best([&] {
      for (int i = 0; i < kBackToBack; ++i) enqueue();
      device_.Finish();
    });
    return seconds / kBackToBack;
  }

  DeviceSide& side_;
  const ClDevice& device_;
  cl_mem memory_;
  const Meter& meter_;
  ClBuffer rows_;
  HostBuffer host_;
};

}  // namespace

void MeasureLink(DeviceSide& side, cl_mem memory, std::size_t bytes, const Meter& meter,
                 DeviceRates& rates) {
  Link link(side, memory, meter);
  {
    const ClPinned pinned(side.device, bytes);
    std::memset(pinned.host(), 1, bytes);
    rates.pinned_write_bytes_per_s = link.WriteRate(pinned.host(), bytes);
    rates.pinned_read_bytes_per_s = link.ReadRate(pinned.host(), bytes);
  }
  const HostBuffer pageable(bytes);
  std::memset(pageable.data(), 1, bytes);
  rates.pageable_write_bytes_per_s = link.WriteRate(pageable.data(), bytes);
  rates.pageable_read_bytes_per_s = link.ReadRate(pageable.data(), bytes);
  rates.launch_s = link.Launch();
  rates.transfer_s = link.Transfer();
  rates.round_trip_s = link.RoundTrip();
  rates.hand_over_s = link.HandOver();
}

}  // namespace tandem
