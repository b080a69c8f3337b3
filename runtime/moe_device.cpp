// The device's part of a MoE layer, and dense MLPs on the device. Only enqueues, but for Join.
#include <cstring>

#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/forward.h"

namespace tandem {

void FeedForward::MlpOnDevice(const MlpWeights& w, const cl::Span& y) {
  const std::int64_t D = f_.config.hidden_size;
  const std::int64_t width = w.gate.rows();
  const std::int64_t T = f_.T();
  cl::Kernels& k = f_.device->kernels;
  k.Linear({f_.h_device, D, w.gate.device, dgate_, width, T, false});
  k.Linear({f_.h_device, D, w.up.device, dup_, width, T, false});
  k.Swiglu({dgate_, width, dup_, width, dgate_, width, T, width});
  k.Linear({dgate_, width, w.down.device, y, D, T, true});
  f_.device->metrics.device_weight_bytes +=
      w.gate.info->bytes() + w.up.info->bytes() + w.down.info->bytes();
}

// Where the device adds its part: straight into x if x is there, else into a zeroed buffer.
cl::Span FeedForward::DeviceTarget() const {
  return f_.x.is_on_device() ? f_.x.on_device() : dpart_;
}

void FeedForward::StartDevicePart(int layer) {
  device_part_ = false;
  if (f_.device == nullptr) return;
  const LayerPlan& p = f_.plan.layers[layer];
  const LayerWeights& w = f_.weights.layers[layer];
  const bool shared = p.shared.on_device() && w.shared.gate && !started_shared_;
  started_shared_ = false;
  SortPairs();
  const bool experts = CollectJobs(layer);
  if (!shared && !experts) return;
  if (!f_.x.is_on_device()) {
    const std::size_t bytes = f_.T() * f_.config.hidden_size * sizeof(float);
    f_.device->device.Write(f_.h_device.buffer, 0, f_.h.row(0), bytes);
    f_.device->device.Zero(dpart_.buffer, 0, bytes);
    device_part_ = true;
  }
  if (shared) MlpOnDevice(w.shared, DeviceTarget());
  if (experts) EnqueueExperts(layer);
  f_.device->device.Flush();
}

// Lists the device's experts that have rows, grouped by the buffer that holds their weights.
bool FeedForward::CollectJobs(int layer) {
  const LayerWeights& w = f_.weights.layers[layer];
  const LayerPlan& p = f_.plan.layers[layer];
  launches_.clear();
  jobs_.clear();
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    const std::int64_t n = pair_begin_[e + 1] - pair_begin_[e];
    if (n == 0 || !p.experts[e].on_device()) continue;
    const MlpWeights& m = w.experts[e];
    if (launches_.empty() || launches_.back().buffer != m.gate.device.buffer) {
      launches_.push_back(
          {m.gate.device.buffer, m.gate.dtype(), static_cast<std::int64_t>(jobs_.size()), 0, 0});
    }
    Launch& launch = launches_.back();
    ++launch.n_jobs;
    launch.max_pairs = std::max(launch.max_pairs, n);
    jobs_.push_back({m.gate.device.offset, m.gate.device.scale_offset, m.up.device.offset,
                     m.up.device.scale_offset, m.down.device.offset, m.down.device.scale_offset,
                     static_cast<cl_int>(pair_begin_[e]), static_cast<cl_int>(n)});
    f_.device->metrics.expert_rows_device += n;
    f_.device->metrics.device_weight_bytes +=
        m.gate.info->bytes() + m.up.info->bytes() + m.down.info->bytes();
  }
  return !jobs_.empty();
}

// One transfer for everything that the launches of a layer read: jobs, pairs, and for each token
// which pairs to add up (-1: the host has that one).
void FeedForward::UploadJobs(int layer) {
  const std::int64_t K = f_.config.num_experts_per_tok;
  const std::int64_t pairs = f_.T() * K;
  const std::size_t job_bytes = jobs_.size() * sizeof(cl::ExpertJob);
  const std::size_t bytes = job_bytes + 3 * pairs * sizeof(std::int32_t);
  const std::size_t piece = job_memory_.size() / f_.plan.layers.size();
  TANDEM_CHECK(bytes <= piece * sizeof(float));
  float* memory = job_memory_.data() + layer * piece;
  std::memcpy(memory, jobs_.data(), job_bytes);
  auto* words = reinterpret_cast<std::int32_t*>(memory) + job_bytes / sizeof(std::int32_t);
  std::memcpy(words, pair_rows_.data(), pairs * sizeof(std::int32_t));
  std::memcpy(words + pairs, pair_weights_.data(), pairs * sizeof(float));
  const std::vector<Place>& experts = f_.plan.layers[layer].experts;
  for (std::int64_t i = 0; i < pairs; ++i) {
    words[2 * pairs + i] = experts[f_.routing.ids[i]].on_device() ? pair_of_[i] : -1;
  }
  f_.device->device.Write(djobs_.buffer, 0, memory, bytes);
}

void FeedForward::EnqueueExperts(int layer) {
  const Config& c = f_.config;
  const std::int64_t pairs = f_.T() * c.num_experts_per_tok;
  UploadJobs(layer);
  const auto words = static_cast<std::int64_t>(jobs_.size() * sizeof(cl::ExpertJob) / 4);
  for (const Launch& launch : launches_) {
    cl::ExpertJobsArgs a;
    a.weights = launch.buffer;
    a.dtype = launch.dtype;
    a.D = c.hidden_size;
    a.F = c.moe_intermediate_size;
    a.jobs = {djobs_.buffer, launch.first_job};
    a.n_jobs = launch.n_jobs;
    a.max_pairs = launch.max_pairs;
    a.pair_row = {djobs_.buffer, words};
    a.pair_weight = {djobs_.buffer, words + pairs};
    a.x = f_.h_device;
    a.x_stride = c.hidden_size;
    a.act = dact_;
    a.gate_up = dgate_up_;
    a.pair_out = dpair_out_;
    f_.device->kernels.ExpertJobs(a);
  }
  f_.device->kernels.ExpertCombine({dpair_out_,
                                    {djobs_.buffer, words + 2 * pairs},
                                    f_.T(),
                                    c.num_experts_per_tok,
                                    c.hidden_size,
                                    DeviceTarget(),
                                    c.hidden_size});
}

void FeedForward::Join(int layer) {
  const std::int64_t n = f_.T() * f_.config.hidden_size;
  const std::size_t bytes = n * sizeof(float);
  if (f_.x.is_on_device()) {
    if (!HasHostWork(layer) || mlps_.empty()) return;
    f_.device->device.Write(dhost_part_.buffer, 0, host_part_.data(), bytes);
    f_.device->kernels.Add({dhost_part_, f_.x.on_device(), n});
    // host_part_ is written again in the next layer, which first waits for that layer's router.
  } else if (device_part_) {
    const double start = Now();
    f_.device->device.BlockingRead(dpart_.buffer, 0, host_part_.data(), bytes);
    f_.device->metrics.device_wait_s += Now() - start;
    f_.host.kernels.add({host_part_.data(), f_.x.host(), n});
  }
}

}  // namespace tandem
