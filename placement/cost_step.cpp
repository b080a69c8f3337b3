#include "placement/cost_step.h"

#include <algorithm>
#include <cmath>

#include "memory/error.h"
#include "placement/model_sizes.h"

namespace tandem {
namespace {

constexpr double kF32 = sizeof(float);
// With this few (row, expert) pairs in a step the split between the sides varies from layer to
// layer, and the slower side of each layer counts; with more its mean is all that matters.
constexpr double kFewPairs = 32;
// Of the table's time per key, for narrower keys on a device that is nearly empty (MHA with 128
// values on an H100: 0.35 us a key, MLA with 576: 0.36 to 0.54).
constexpr double kLeastKeyShare = 0.75;

// What the products of attention are made of.
struct AttentionWidths {
  double D, heads, q_width, kv_width, q_rank, out_width;
  double absorb;  // weights of W_UK and W_UV
};

AttentionWidths WidthsOf(const Config& c) {
  const auto heads = static_cast<double>(c.num_attention_heads);
  return {static_cast<double>(c.hidden_size),
          heads,
          heads * static_cast<double>(c.qk_head_dim()),
          static_cast<double>(c.kv_width()),
          static_cast<double>(c.q_lora_rank),
          heads * static_cast<double>(c.v_head_dim),
          heads * static_cast<double>((c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank)};
}

double TypeBytes(DType type) { return BytesPerElement(type); }

}  // namespace

StepEstimate::StepEstimate(const Config& config, const RoleTypes& types, const Machine& machine,
                           const Plan& plan, const StepRows& step)
    : config_(config),
      types_(types),
      machine_(machine),
      plan_(plan),
      step_(step),
      team_(machine.rates.host, plan) {
  for (const PlanDevice& device : plan.devices) {
    devices_.emplace_back(RatesOf(machine, device), device);
  }
  for (const NodeRates& node : machine.rates.host.nodes) {
    if (!node.read.empty()) all_cores_read_ += node.read.back().bytes_per_s;
  }
}

Limit StepEstimate::HostLimit(const Part& part) const {
  const bool memory = part.bytes / team_.read_bytes_per_s() >= 0.6 * part.seconds;
  return memory ? Limit::kHostMemory : Limit::kHostArithmetic;
}

Limit StepEstimate::DeviceLimit(int device, const Part& part) const {
  const DeviceRates& rates = devices_[static_cast<std::size_t>(device)].rates();
  if (part.launches * rates.launch_s >= 0.5 * part.seconds) return Limit::kDeviceLaunches;
  const bool memory = part.bytes / rates.read_bytes_per_s >= 0.4 * part.seconds;
  return memory ? Limit::kDeviceMemory : Limit::kDeviceArithmetic;
}

void StepEstimate::AddHost(const Part& part) {
  cost_.seconds += part.seconds;
  cost_.host += part.seconds;
  cost_.host_memory_bytes += part.bytes;
  limits_[static_cast<std::size_t>(HostLimit(part))] += part.seconds;
}

void StepEstimate::AddDevice(int device, const Part& part) {
  cost_.seconds += part.seconds;
  cost_.device += part.seconds;
  cost_.device_memory_bytes += part.bytes;
  const auto limit = static_cast<std::size_t>(DeviceLimit(device, part));
  limits_[limit] += part.seconds;
  limit_index_[limit] = device;
}

void StepEstimate::AddTransfer(double seconds) {
  cost_.seconds += seconds;
  cost_.transfer += seconds;
  limits_[static_cast<std::size_t>(Limit::kTransfer)] += seconds;
}

void StepEstimate::AddHandOver(double seconds) {
  cost_.seconds += seconds;
  cost_.hand_over += seconds;
  limits_[static_cast<std::size_t>(Limit::kHandOver)] += seconds;
}

// Residual::MoveTo. Between two devices by way of the host.
void StepEstimate::MoveX(Place place) {
  const int to = place.on_device() ? place.index : -1;
  if (to == x_device_) return;
  const double bytes = step_.rows * static_cast<double>(config_.hidden_size) * kF32;
  if (x_device_ >= 0) {
    const DeviceCost& from = devices_[static_cast<std::size_t>(x_device_)];
    AddHandOver(from.Read(0));
    AddTransfer(from.Read(bytes) - from.Read(0));
  }
  if (to >= 0) AddTransfer(devices_[static_cast<std::size_t>(to)].Write(bytes));
  x_device_ = to;
}

void StepEstimate::Embed() {
  const double width = static_cast<double>(config_.hidden_size);
  AddHost({team_.Values(step_.rows, width), step_.rows * width * kF32, 0});
  if (devices_.empty()) return;
  // The batch's tables go to the device in one transfer.
  const double words = static_cast<double>(config_.qk_rope_head_dim) + 3;
  AddTransfer(devices_[0].Write(step_.rows * words * kF32 + step_.keys / 16));
}

// The tables hold MLA with R 512 and 64 roped values, nope and v 128.
double StepEstimate::AttentionScale(int device) const {
  const Config& c = config_;
  constexpr double kTableKey = 576 + 512;
  constexpr double kTableAbsorb = 2 * 128 * 512;
  double key = 2 * static_cast<double>(c.v_head_dim);
  double absorb = 0;
  if (c.attention == AttentionKind::kMla) {
    key = static_cast<double>(c.kv_width() + c.kv_lora_rank);
    absorb = static_cast<double>((c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank);
  }
  const double heads = step_.rows * static_cast<double>(c.num_attention_heads);
  if (device >= 0 && heads <= ComputeUnits(device)) {
    // One work-group a head walks the keys one after the other: with few of them a key takes the
    // time that memory takes to answer, whatever its width.
    key = std::max(key, kLeastKeyShare * kTableKey);
  }
  return (step_.keys * key + absorb) / (step_.keys * kTableKey + kTableAbsorb);
}

double StepEstimate::ComputeUnits(int device) const {
  const int index = plan_.devices[static_cast<std::size_t>(device)].index;
  const auto found = std::ranges::find(machine_.devices, index, &Device::index);
  return found != machine_.devices.end() ? found->compute_units : 0;
}

StepEstimate::Part StepEstimate::AttentionOnHost() const {
  const Config& c = config_;
  const double rows = step_.rows;
  const auto [D, heads, q_width, kv_width, q_rank, out_width, absorb] = WidthsOf(c);
  Part part;
  double weights = 0;
  const auto linear = [&](double n, double k) {
    part.seconds += team_.Linear(types_.attention, n, k, rows);
    weights += n * k;
  };
  part.seconds += team_.Values(rows, D);
  linear((q_rank > 0 ? q_rank : q_width) + kv_width, D);
  if (q_rank > 0) {
    part.seconds += team_.Values(rows, q_rank);
    linear(q_width, q_rank);
  }
  part.seconds += team_.Values(rows, kv_width + q_width);
  part.seconds += AttentionScale(-1) * team_.Attention(heads, rows, step_.keys);
  linear(D, out_width);
  part.bytes = (weights + absorb) * TypeBytes(types_.attention) +
               rows * step_.keys * static_cast<double>(KvTokenBytes(config_, plan_.kv_type)) /
                   std::max(1.0, rows / 16);
  return part;
}

StepEstimate::Part StepEstimate::AttentionOnDevice(int device) const {
  const Config& c = config_;
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  const double rows = step_.rows;
  const auto [D, heads, q_width, kv_width, q_rank, out_width, absorb] = WidthsOf(c);
  Part part;
  double weights = 0;
  const auto linear = [&](double n, double k) {
    part.seconds += d.Linear(types_.attention, n, k, rows);
    part.launches += 1;
    weights += n * k;
  };
  const auto values = [&](double width) {
    part.seconds += d.Values(rows, width);
    part.launches += 1;
  };
  // Norms, and in MLA the rotation of the queries, are parts of other launches.
  if (c.attention == AttentionKind::kMha) {
    linear(q_width + kv_width / 2, D);
    linear(kv_width / 2, D);
    values(q_width);
    values(kv_width);
  } else {
    linear((q_rank > 0 ? q_rank : q_width) + kv_width, D);
    if (q_rank > 0) linear(q_width, q_rank);
  }
  values(kv_width);  // the cache
  part.seconds += AttentionScale(device) * d.Attention(heads, rows, step_.keys);
  part.launches += c.attention == AttentionKind::kMha ? 1 : 3;
  linear(D, out_width);
  part.bytes = (weights + absorb) * TypeBytes(types_.attention) +
               rows * step_.keys * kv_width * TypeBytes(plan_.kv_type);
  return part;
}

void StepEstimate::Attention(const LayerPlan& layer) {
  MoveX(layer.attention);
  if (layer.attention.on_device()) {
    AddDevice(layer.attention.index, AttentionOnDevice(layer.attention.index));
  } else {
    AddHost(AttentionOnHost());
  }
}

StepEstimate::Part StepEstimate::MlpOnHost(DType type, double width) const {
  const double D = static_cast<double>(config_.hidden_size);
  Part part;
  // One hand-out, where the two products' tables hold one each.
  part.seconds = team_.Linear(type, 2 * width, D, step_.rows) +
                 team_.Linear(type, D, width, step_.rows) - team_.hand_out_s();
  part.bytes = 3 * D * width * TypeBytes(type);
  return part;
}

StepEstimate::Part StepEstimate::MlpOnDevice(int device, DType type, double width) const {
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  const double D = static_cast<double>(config_.hidden_size);
  Part part;
  part.seconds = d.Linear(type, 2 * width, D, step_.rows) + d.Linear(type, D, width, step_.rows);
  part.launches = 2;
  part.bytes = 3 * D * width * TypeBytes(type);
  return part;
}

void StepEstimate::Dense(const LayerPlan& layer) {
  MoveX(layer.dense);
  const double width = static_cast<double>(config_.intermediate_size);
  const double D = static_cast<double>(config_.hidden_size);
  if (layer.dense.on_device()) {
    AddDevice(layer.dense.index, MlpOnDevice(layer.dense.index, types_.dense, width));
  } else {
    AddHost({team_.Values(step_.rows, D), 0, 0});
    AddHost(MlpOnHost(types_.dense, width));
  }
}

// Norm, scores and choice. From a device the host gets them, and h, only if it or another device
// has work.
void StepEstimate::Route(const LayerPlan& layer) {
  MoveX(layer.router);
  const double D = static_cast<double>(config_.hidden_size);
  const double E = static_cast<double>(config_.n_routed_experts);
  if (!layer.router.on_device()) {
    Part part{team_.Values(step_.rows, D) + team_.Linear(types_.router, E, D, step_.rows) +
                  team_.Values(step_.rows, E),
              E * D * TypeBytes(types_.router), 0};
    return AddHost(part);
  }
  const int device = layer.router.index;
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  AddDevice(device, {d.Values(step_.rows, E) + d.Linear(types_.router, E, D, step_.rows),
                     E * D * TypeBytes(types_.router), 2});
  const auto elsewhere = [&](Place place) { return place != layer.router; };
  if (layer.shared.on_device() && std::ranges::none_of(layer.experts, elsewhere)) return;
  const double bytes = step_.rows * D * kF32;
  AddHandOver(d.rates().hand_over_s);
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
  part.bytes = load.experts * elements * TypeBytes(types_.experts);
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
          load.experts * elements * TypeBytes(types_.experts), 3};
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

void StepEstimate::AddOverlapped(const Loads& loads, bool host_shared, int shared_device) {
  const int shared = host_shared ? -1 : shared_device;
  const bool same = loads == last_loads_ && shared == last_shared_;
  if (!same) {
    last_loads_ = loads;
    last_shared_ = shared;
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
      const Part host =
          HostExperts({loads.host.experts * host_factor, loads.host.rows}, host_shared);
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
    last_overlap_ = o;
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
                         TypeBytes(types_.experts);
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
  const bool has_shared = config_.n_shared_experts > 0;
  const bool host_shared = has_shared && !layer.shared.on_device();
  const int shared_device = has_shared && layer.shared.on_device() ? layer.shared.index : -1;
  AddOverlapped(loads, host_shared, shared_device);
  Join(loads, host_shared || loads.host.experts > 0, shared_device);
}

void StepEstimate::Head() {
  if (step_.logits <= 0) return;
  MoveX(plan_.head);
  const double D = static_cast<double>(config_.hidden_size);
  const double V = static_cast<double>(config_.vocab_size);
  const double bytes = V * D * TypeBytes(types_.head);
  if (!plan_.head.on_device()) {
    return AddHost(
        {team_.Values(step_.rows, D) + team_.Linear(types_.head, V, D, step_.logits), bytes, 0});
  }
  const DeviceCost& d = devices_[static_cast<std::size_t>(plan_.head.index)];
  AddDevice(plan_.head.index,
            {d.Values(step_.rows, D) + d.Linear(types_.head, V, D, step_.logits), bytes, 2});
  AddHandOver(d.Read(0));  // of the chosen tokens
}

StepCost StepEstimate::Take() {
  const auto most = std::ranges::max_element(limits_);
  cost_.limit = static_cast<Limit>(most - limits_.begin());
  cost_.limit_index = limit_index_[static_cast<std::size_t>(most - limits_.begin())];
  return cost_;
}

}  // namespace tandem
