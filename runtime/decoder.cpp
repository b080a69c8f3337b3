#include "runtime/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "memory/blocks.h"
#include "runtime/sampler.h"

namespace tandem {
namespace {

void WidenRow(const cpu::KernelTable& kernels, DType type, const std::byte* row,
              std::span<float> out) {
  if (IsBlockFormat(type)) return DecodeBlocks(type, row, out);
  kernels.widen({row, type, out.data(), static_cast<std::int64_t>(out.size())});
}

}  // namespace

Decoder::Decoder(Forward& f)
    : f_(f),
      attention_(f),
      feed_forward_(f),
      wanted_(reinterpret_cast<std::int32_t*>(f.host.Scratch("wanted_rows").data()),
              f.host.Scratch("wanted_rows").size()),
      logits_(f.host.Scratch("logits")),
      logit_rows_(LogitRows(f.plan)) {
  const std::span<float> greedy = f.host.Scratch("greedy");
  greedy_ = {reinterpret_cast<std::int32_t*>(greedy.data()), greedy.size()};
  if (!f.plan.head.on_device()) return;
  dlogits_ = f.device->Scratch("logits");
  dparts_ = f.device->Scratch("argmax");
  const std::span<float> parts = f.host.Scratch("argmax");
  parts_ = {reinterpret_cast<cl::ArgmaxPart*>(parts.data()), parts.size() / 2};
}

std::span<const float> Decoder::Step() {
  const bool cached = f_.cache && !f_.uncounted;
  if (cached) f_.cache->BeginStep();
  f_.x.SetOnHost();
  Embed(f_.x.host());
  if (f_.observer != nullptr) ObserveHidden(0, nullptr);
  Restart();
  RunLayers(f_.plan.layers.size());
  const std::span<const float> logits = Head();
  if (cached) f_.cache->EndStep(f_.T());
  return logits;
}

// Few layers: the device is busy with them for longer than the host needs to enqueue more, a step
// that is given up costs no more, and no queue is so short that it holds the host up. None that
// waits for the host.
void Decoder::Begin() {
  constexpr int kLayersAhead = 4;
  f_.feed->Take(f_.batch, f_.device->Scratch("batch").buffer, f_.device->Scratch("x").buffer);
  f_.x.SetOnDevice();
  Restart();
  const int most = std::min(kLayersAhead, static_cast<int>(f_.plan.layers.size()));
  int layers = 0;
  while (layers < most && !feed_forward_.HandsOver(layers)) ++layers;
  RunLayers(static_cast<std::size_t>(layers));
  f_.device->device.Flush();
}

void Decoder::Feed() {
  Embed(f_.feed->rows());
  f_.feed->Feed();
}

std::span<const float> Decoder::Finish(const std::function<void()>& meanwhile) {
  const std::int64_t wanted = fed_wanted_ = CollectWanted();
  RunLayers(f_.plan.layers.size());
  EnqueueHead();
  if (wanted == 0) {
    f_.device->device.Finish();
  } else if (!f_.greedy) {  // a read of so much that a driver may wait for it all the same
    ReadLogits(wanted);
  } else {
    meanwhile();
    f_.feed->AwaitIds(parts_.first(static_cast<std::size_t>(wanted * cl::kArgmaxParts)));
  }
  return Result(wanted);
}

void Decoder::EnqueueHead() {
  const std::int64_t wanted = std::exchange(fed_wanted_, 0);
  if (wanted == 0) return;
  const bool fused = FusesNorm(wanted);
  if (!fused) NormOnDevice(wanted);
  EnqueueLogits(0, wanted, fused);
  if (f_.greedy) f_.feed->PublishIds(dlogits_, wanted, f_.config.vocab_size);
  f_.device->device.Flush();
}

void Decoder::Restart() {
  layer_ = started_ = enqueued_ = 0;
  fed_wanted_ = 0;
}

void Decoder::RunLayers(std::size_t end) {
  for (; layer_ < static_cast<int>(end); ++layer_) {
    if (started_ == layer_) Start();
    if (enqueued_ == layer_) Enqueue();
    // A deferred sum leaves the device the next layer's experts to go on with.
    feed_forward_.Finish(layer_, [&] {
      if (feed_forward_.Defers(layer_)) Enqueue();
    });
    const bool last = layer_ + 1 == static_cast<int>(f_.plan.layers.size());
    if (f_.observer != nullptr && !last) ObserveHidden(layer_ + 1, nullptr);
  }
}

void Decoder::Start() {
  const int layer = started_++;
  attention_.Run(layer);
  feed_forward_.Start(layer);
}

void Decoder::Enqueue() {
  const int layer = enqueued_++;
  feed_forward_.Enqueue(layer, [&] {
    if (StaysOnDevice(layer + 1)) Start();
    if (layer + 1 == static_cast<int>(f_.plan.layers.size())) EnqueueHead();
  });
}

// That starting this layer only enqueues, after one that left x on the device. An observer wants
// to see the layers apart.
bool Decoder::StaysOnDevice(int layer) const {
  if (f_.observer != nullptr || layer >= static_cast<int>(f_.plan.layers.size())) return false;
  const LayerPlan& p = f_.plan.layers[layer];
  return p.attention.on_device() && (p.moe ? p.router : p.dense).on_device();
}

// x [T, D].
void Decoder::Embed(float* x) {
  const Matrix& embedding = f_.weights.embedding;
  const std::int64_t D = f_.config.hidden_size;
  f_.host.ForRows(f_.T(), [&](std::int64_t t0, std::int64_t t1) {
    for (std::int64_t t = t0; t < t1; ++t) {
      const std::int64_t id = f_.batch.rows[t].token;
      for (const HostShard& s : embedding.shards) {
        if (id < s.row0 || id >= s.row1) continue;
        WidenRow(f_.host.kernels, embedding.dtype(),
                 s.data + DataBytes(embedding.dtype(), (id - s.row0) * D),
                 {x + t * D, static_cast<std::size_t>(D)});
      }
    }
  });
}

std::int64_t Decoder::CollectWanted() {
  std::int64_t wanted = 0;
  for (std::int64_t t = 0; t < f_.T(); ++t) {
    if (f_.batch.rows[t].wants_logits) wanted_[wanted++] = static_cast<std::int32_t>(t);
  }
  return wanted;
}

// Decode on a device: the norm is a part of the product.
bool Decoder::FusesNorm(std::int64_t wanted) const {
  return f_.plan.head.on_device() && wanted == f_.T() && wanted <= logit_rows_ &&
         f_.observer == nullptr;
}

std::span<const float> Decoder::Head() {
  const std::int64_t wanted = CollectWanted();
  const bool fused = FusesNorm(wanted);
  if (wanted > 0 || f_.observer != nullptr) {
    f_.x.MoveTo(f_.plan.head, f_.T());
    if (!fused) f_.plan.head.on_device() ? NormOnDevice(wanted) : NormOnHost();
  }
  // The logits of many rows would be large: some rows at a time.
  for (std::int64_t i = 0; i < wanted; i += logit_rows_) {
    const std::int64_t n = std::min(logit_rows_, wanted - i);
    Logits(i, n, fused);
    if (f_.sink != nullptr) (*f_.sink)(logits_.first(n * f_.config.vocab_size));
  }
  // The step's host memory is free again after this; logits that were read were the last command.
  const bool read = f_.plan.head.on_device() && wanted > 0;
  if (f_.device != nullptr && !read) f_.device->device.Finish();
  return Result(wanted);
}

// Of a step whose last wait is over.
std::span<const float> Decoder::Result(std::int64_t wanted) {
  chosen_ = 0;
  if (f_.greedy) {
    while (static_cast<std::int64_t>(chosen_) < wanted) {
      greedy_[chosen_] = Choose(static_cast<std::int64_t>(chosen_));
      ++chosen_;
    }
    return {};
  }
  return logits_.first(f_.sink != nullptr ? 0 : wanted * f_.config.vocab_size);
}

// The final norm goes into h: no layer needs that any more.
void Decoder::NormOnHost() {
  const Config& c = f_.config;
  RmsNormOnHost(f_.host, f_.x.host(), c.hidden_size, f_.weights.final_norm, f_.h, c.hidden_size,
                f_.T(), c.rms_norm_eps);
  if (f_.observer != nullptr) ObserveHidden(static_cast<int>(c.num_hidden_layers), f_.h.row(0));
}

void Decoder::NormOnDevice(std::int64_t wanted) {
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  DeviceSide& d = *f_.device;
  const std::size_t row_bytes = D * sizeof(float);
  cl_mem h = f_.h_device.buffer;
  d.kernels.RmsNorm({f_.x.on_device(), D, f_.weights.final_norm.device, f_.h_device, D, f_.T(), D,
                     static_cast<float>(c.rms_norm_eps)});
  if (f_.observer != nullptr) {
    d.device.BlockingRead(h, 0, f_.x.host_memory(), f_.T() * row_bytes);
    ObserveHidden(static_cast<int>(c.num_hidden_layers), f_.x.host_memory());
  }
  // Rows that want logits move to the front: usually one, so a copy each is cheap.
  for (std::int64_t i = 0; i < wanted; ++i) {
    if (wanted_[i] == i) continue;
    d.device.Copy(h, wanted_[i] * row_bytes, h, i * row_bytes, row_bytes);
  }
}

// Logits of n of the rows that want them, to the front of logits_; `norm`: of x, else of h.
void Decoder::Logits(std::int64_t first, std::int64_t n, bool norm) {
  const Config& c = f_.config;
  const Matrix& w = f_.weights.lm_head;
  if (!f_.plan.head.on_device()) {
    const HostLinear head{&w, f_.h.rows(), wanted_.data() + first, logits_.data(), c.vocab_size,
                          n,  false};
    return LinearOnHost(f_.host, {&head, 1});
  }
  DeviceSide& d = *f_.device;
  EnqueueLogits(first, n, norm);
  if (!f_.greedy) return ReadLogits(n);
  d.kernels.Argmax({dlogits_, n, c.vocab_size, dparts_.buffer});
  d.device.BlockingRead(dparts_.buffer, 0, parts_.data(),
                        static_cast<std::size_t>(n * cl::kArgmaxParts) * sizeof(cl::ArgmaxPart));
}

void Decoder::ReadLogits(std::int64_t n) {
  f_.device->device.BlockingRead(dlogits_.buffer, 0, logits_.data(),
                                 n * f_.config.vocab_size * sizeof(float));
}

void Decoder::EnqueueLogits(std::int64_t first, std::int64_t n, bool norm) {
  const Config& c = f_.config;
  const Matrix& w = f_.weights.lm_head;
  DeviceSide& d = *f_.device;
  d.metrics.device_weight_bytes += w.info->bytes();
  const std::int64_t D = c.hidden_size;
  cl::LinearArgs head{
      {f_.h_device.buffer, first * D}, D, w.device, dlogits_, c.vocab_size, n, false};
  if (norm) {
    head.x = f_.x.on_device();
    head.norm = {f_.weights.final_norm.device, static_cast<float>(c.rms_norm_eps), f_.h_device, D};
  }
  d.kernels.Linear(head);
}

// The token of row `row` of the step's logits.
std::int32_t Decoder::Choose(std::int64_t row) {
  const auto V = static_cast<std::size_t>(f_.config.vocab_size);
  const std::span<float> logits = logits_.subspan(static_cast<std::size_t>(row) * V, V);
  if (!f_.plan.head.on_device()) return GreedyToken(logits);
  cl::ArgmaxPart best{-INFINITY, -1};
  bool finite = true;
  for (const cl::ArgmaxPart& part : parts_.subspan(row * cl::kArgmaxParts, cl::kArgmaxParts)) {
    finite = finite && part.id >= 0;
    if (part.value > best.value) best = part;  // parts rise in their ids
  }
  if (finite && best.id >= 0) return best.id;
  if (f_.feed != nullptr) f_.feed->Drop();  // else the read would wait for the next step's rows
  f_.device->device.BlockingRead(dlogits_.buffer, static_cast<std::size_t>(row) * V * sizeof(float),
                                 logits.data(), V * sizeof(float));
  return GreedyToken(logits);  // says what is wrong
}

// `host` is where the values are, null for x.
void Decoder::ObserveHidden(int index, const float* host) {
  const std::size_t n = f_.T() * f_.config.hidden_size;
  if (host == nullptr && f_.x.is_on_device()) {
    f_.device->device.BlockingRead(f_.x.on_device().buffer, 0, f_.x.host_memory(),
                                   n * sizeof(float));
  }
  f_.observer->OnHidden(index, {host != nullptr ? host : f_.x.host_memory(), n});
}

}  // namespace tandem
