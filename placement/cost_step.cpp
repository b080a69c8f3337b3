#include "placement/cost_step.h"

#include <algorithm>

namespace tandem {

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

StepEstimate::Part StepEstimate::MlpOnHost(DType type, double width) const {
  const double D = static_cast<double>(config_.hidden_size);
  Part part;
  // One hand-out, where the two products' tables hold one each.
  part.seconds = team_.Linear(type, 2 * width, D, step_.rows) +
                 team_.Linear(type, D, width, step_.rows) - team_.hand_out_s();
  part.bytes = 3 * D * width * BytesPerElement(type);
  return part;
}

StepEstimate::Part StepEstimate::MlpOnDevice(int device, DType type, double width) const {
  const DeviceCost& d = devices_[static_cast<std::size_t>(device)];
  const double D = static_cast<double>(config_.hidden_size);
  Part part;
  part.seconds = d.Linear(type, 2 * width, D, step_.rows) + d.Linear(type, D, width, step_.rows);
  part.launches = 2;
  part.bytes = 3 * D * width * BytesPerElement(type);
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

void StepEstimate::Head() {
  if (step_.logits <= 0) return;
  MoveX(plan_.head);
  const double D = static_cast<double>(config_.hidden_size);
  const double V = static_cast<double>(config_.vocab_size);
  const double bytes = V * D * BytesPerElement(types_.head);
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
