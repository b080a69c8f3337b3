// What a MoE layer's router and experts cost a step, on both sides at once.
#include <algorithm>
#include <cmath>

#include "placement/cost_step.h"

namespace tandem {
namespace {

// With this few (row, expert) pairs in a step the split between the sides varies from layer to
// layer, and the slower side of each layer counts; with more its mean is all that matters.
constexpr double kFewPairs = 32;

}  // namespace

// Norm, scores and choice. From a device the host gets them, and h, only if it or another device
// has work.
void StepEstimate::Route(const LayerPlan& layer) {
  MoveX(layer.router);
  const double D = static_cast<double>(config_.hidden_size);
  const double E = static_cast<double>(config_.n_routed_experts);
  if (!layer.router.on_device()) {
    Part part{team_.Values(step_.rows, D) + team_.Linear(types_.router, E, D, step_.rows) +
                  team_.Values(step_.rows, E),
              E * D * BytesPerElement(types_.router), 0};
    return AddHost(part);
  }
  const int device = layer.router.index;
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  AddDevice(device, {d.Values(step_.rows, E) + d.Linear(types_.router, E, D, step_.rows),
                     E * D * BytesPerElement(types_.router), 2});
  const auto elsewhere = [&](Place place) { return place != layer.router; };
  if (!layer.SharedOnHost() && std::ranges::none_of(layer.experts, elsewhere)) return;
  const double bytes = step_.rows * D * kF32;
  AddHandOver(d.rates().hand_over_s + d.rates().launch_s);  // another adds the sum: Join
  AddTransfer(bytes / d.rates().pinned_read_bytes_per_s +
              bytes / d.rates().pinned_write_bytes_per_s);
}

StepEstimate::Loads StepEstimate::LoadsOf(const LayerPlan& layer, const LayerShares& shares) const {
  const double K = static_cast<double>(config_.num_experts_per_tok);
  Loads loads;
  loads.devices.resize(devices_.size());
  double host_pairs = 0;
  std::vector<double> pairs(devices_.size());
  double uniform_active = 0;
  if (shares.uniform && !shares.share.empty()) {
    uniform_active = -std::expm1(step_.rows * shares.log_miss[0]);
  }
  for (std::size_t e = 0; e < layer.experts.size(); ++e) {
    const double active =
        shares.uniform ? uniform_active : -std::expm1(step_.rows * shares.log_miss[e]);
    const double rows = step_.rows * std::min(1.0, K * shares.share[e]);
    const Place place = layer.experts[e];
    if (place.on_device()) {
      loads.devices[static_cast<std::size_t>(place.index)].experts += active;
      pairs[static_cast<std::size_t>(place.index)] += rows;
    } else {
      loads.host.experts += active;
      host_pairs += rows;
    }
  }
  const auto rows_of = [](double all, double experts) { return experts > 0 ? all / experts : 0; };
  loads.host.rows = rows_of(host_pairs, loads.host.experts);
  for (std::size_t d = 0; d < pairs.size(); ++d) {
    loads.devices[d].rows = rows_of(pairs[d], loads.devices[d].experts);
  }
  loads.host_share = host_pairs / std::max(1e-9, step_.rows * K);
  return loads;
}

StepEstimate::Part StepEstimate::HostExperts(ExpertLoad load, bool shared) const {
  const Config& c = config_;
  const double elements = 3 * static_cast<double>(c.hidden_size * c.moe_intermediate_size);
  Part part;
  part.seconds = team_.Experts(types_.experts, elements, load);
  part.bytes = load.experts * elements * BytesPerElement(types_.experts);
  if (!shared) return part;
  const Part mlp =
      MlpOnHost(types_.shared, static_cast<double>(c.n_shared_experts * c.moe_intermediate_size));
  part.bytes += mlp.bytes;
  // In one hand-out with the experts, if there are any.
  part.seconds += mlp.seconds - (load.experts > 0 ? team_.hand_out_s() : 0);
  return part;
}

StepEstimate::Part StepEstimate::DeviceExperts(int device, ExpertLoad load) const {
  if (load.experts <= 0) return {};
  const Config& c = config_;
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  const double elements = 3 * static_cast<double>(c.hidden_size * c.moe_intermediate_size);
  const double K = static_cast<double>(c.num_experts_per_tok);
  // The pairs are grouped by expert first.
  return {d.Values(step_.rows, K) + d.Experts(types_.experts, elements, load),
          load.experts * elements * BytesPerElement(types_.experts), 3};
}

// Of a device beyond the first: its input goes there from the host, its sum comes back, while the
// host computes. Where no row is expected to choose it, with that chance.
void StepEstimate::AddWay(int device, ExpertLoad load, Part& part) const {
  if (load.experts <= 0) return;
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  const double bytes = step_.rows * static_cast<double>(config_.hidden_size) * kF32;
  const double chance = std::min(1.0, load.experts);
  part.seconds += chance * (d.Write(bytes) + d.Read(bytes));
  part.launches += 4 * chance;  // two writes, zeros, a read
}

// Both sides at once. A device that shares the cores shares the memory's bandwidth too.
double StepEstimate::Together(const Part& host, const std::vector<Part>& devices) const {
  double seconds = host.seconds;
  double shared_bytes = host.bytes;
  bool shares = false;
  // The calling thread enqueues the device's part before it joins the team.
  if (host.seconds > 0) {
    for (std::size_t d = 0; d < devices.size(); ++d) {
      seconds += devices[d].launches * devices_[d].rates().launch_s;
    }
  }
  for (std::size_t d = 0; d < devices.size(); ++d) {
    seconds = std::max(seconds, devices[d].seconds);
    if (!plan_.devices[d].shares_cores || devices[d].bytes == 0) continue;
    shares = true;
    shared_bytes += devices[d].bytes;
  }
  if (!shares || host.bytes == 0 || all_cores_read_ <= 0) return seconds;
  return std::max(seconds, shared_bytes / all_cores_read_);
}

StepEstimate::Overlap StepEstimate::OverlapOf(const Loads& loads, bool host_shared,
                                              int shared_device) const {
  Overlap o;
  const double K = static_cast<double>(config_.num_experts_per_tok);
  const double width =
      static_cast<double>(config_.n_shared_experts * config_.moe_intermediate_size);
  const double pairs = std::round(step_.rows * K);
  const bool few = pairs <= kFewPairs && loads.host_share > 0 && loads.host_share < 1;
  const int cases = few ? static_cast<int>(pairs) : 0;
  double chance = few ? std::pow(1 - loads.host_share, pairs) : 1;
  for (int n = 0; n <= cases; ++n) {
    // n of the pairs fall on the host; each side's number of experts goes with its pairs.
    const double host_factor = few ? n / (pairs * loads.host_share) : 1;
    const double device_factor = few ? (pairs - n) / (pairs * (1 - loads.host_share)) : 1;
    const Part host = HostExperts({loads.host.experts * host_factor, loads.host.rows}, host_shared);
    std::vector<Part> devices(devices_.size());
    double busiest = 0;
    for (std::size_t d = 0; d < devices_.size(); ++d) {
      const ExpertLoad load{loads.devices[d].experts * device_factor, loads.devices[d].rows};
      devices[d] = DeviceExperts(static_cast<int>(d), load);
      if (d > 0) AddWay(static_cast<int>(d), load, devices[d]);
      if (shared_device == static_cast<int>(d)) {
        const Part mlp = MlpOnDevice(shared_device, types_.shared, width);
        devices[d].seconds += mlp.seconds;
        devices[d].bytes += mlp.bytes;
        devices[d].launches += mlp.launches;
      }
      busiest = std::max(busiest, devices[d].seconds);
      o.device_part.bytes += chance * devices[d].bytes;
      o.device_part.launches += chance * devices[d].launches;
    }
    o.seconds += chance * Together(host, devices);
    o.host += chance * host.seconds;
    o.device += chance * busiest;
    o.host_part.bytes += chance * host.bytes;
    chance *= (pairs - n) / (n + 1) * loads.host_share / (1 - loads.host_share);
  }
  o.host_part.seconds = o.host;
  o.device_part.seconds = o.device;
  return o;
}

void StepEstimate::AddOverlapped(const Loads& loads, bool host_shared, int shared_device) {
  const int shared = host_shared ? -1 : shared_device;
  if (loads != last_loads_ || shared != last_shared_) {
    last_loads_ = loads;
    last_shared_ = shared;
    last_overlap_ = OverlapOf(loads, host_shared, shared_device);
  }
  const Overlap& o = last_overlap_;
  cost_.seconds += o.seconds;
  cost_.host += o.host;
  cost_.device += o.device;
  cost_.overlap += o.host + o.device - o.seconds;
  cost_.host_memory_bytes += o.host_part.bytes;
  cost_.device_memory_bytes += o.device_part.bytes;
  const bool host_longer = o.host >= o.device;
  const Limit limit =
      host_longer || devices_.empty() ? HostLimit(o.host_part) : DeviceLimit(0, o.device_part);
  limits_[static_cast<std::size_t>(limit)] += o.seconds;
}

// The sums meet where the residual is.
void StepEstimate::Join(const Loads& loads, bool host_work, int shared_device) {
  const double D = static_cast<double>(config_.hidden_size);
  const double bytes = step_.rows * D * kF32;
  bool further = false;
  for (std::size_t d = 0; d < devices_.size(); ++d) {
    const bool worked = loads.devices[d].experts > 0 || shared_device == static_cast<int>(d);
    if (!worked || x_device_ == static_cast<int>(d)) continue;
    const double chance = std::min(1.0, loads.devices[d].experts + (shared_device >= 0 ? 1 : 0));
    if (d > 0) {  // AddWay
      further = true;
      AddHost({std::min(1.0, loads.devices[d].experts) * team_.Values(step_.rows, D), 0, 0});
      continue;
    }
    // Its input went there, and its sum comes back.
    AddHandOver(chance * devices_[d].Read(0));
    AddTransfer(chance *
                (devices_[d].Write(bytes) + devices_[d].Read(bytes) - devices_[d].Read(0)));
    AddHost({team_.Values(step_.rows, D), 0, 0});
  }
  if (x_device_ < 0 || (!host_work && !further)) return;
  AddDevice(x_device_, {devices_[static_cast<std::size_t>(x_device_)].Values(step_.rows, D), 0, 1});
}

void StepEstimate::Moe(const LayerPlan& layer, const LayerShares& shares) {
  Route(layer);
  Loads loads = LoadsOf(layer, shares);
  if (plan_.stream_prefill && !devices_.empty() && step_.rows > 1) {
    const double bytes = loads.host.experts * 3 *
                         static_cast<double>(config_.hidden_size * config_.moe_intermediate_size) *
                         BytesPerElement(types_.experts);
    const double copy = bytes / devices_[0].rates().pinned_write_bytes_per_s;
    ExpertLoad& there = loads.devices[0];
    const double pairs = there.experts * there.rows + loads.host.experts * loads.host.rows;
    there.experts += loads.host.experts;
    there.rows = there.experts > 0 ? pairs / there.experts : 0;
    loads.host = {};
    loads.host_share = 0;
    // The next experts' weights travel while these compute; what is left is waiting for PCIe.
    const double compute = DeviceExperts(0, there).seconds;
    AddTransfer(std::max(0.0, copy - compute));
  }
  const bool host_shared = layer.SharedOnHost();
  const int shared_device = layer.has_shared && layer.shared.on_device() ? layer.shared.index : -1;
  AddOverlapped(loads, host_shared, shared_device);
  Join(loads, host_shared || loads.host.experts > 0, shared_device);
}

}  // namespace tandem
