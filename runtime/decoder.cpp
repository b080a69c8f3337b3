#include "runtime/decoder.h"

#include <algorithm>

namespace tandem {
namespace {

constexpr std::int64_t kLogitRows = 64;  // 33 MiB for V3's vocabulary

}  // namespace

Decoder::Decoder(Forward& f) : f_(f), attention_(f), feed_forward_(f) {
  const std::int64_t D = f.config.hidden_size;
  normed_ = HostActivation(f.plan.max_rows, D, f.host.round_activations);
  if (!f.plan.head.on_device()) return;
  dnormed_ = f.device->Scratch("normed", f.plan.max_rows * D);
  logit_rows_ = std::min<std::int64_t>(f.plan.max_rows, kLogitRows);
  dlogits_ = f.device->Scratch("logits", logit_rows_ * f.config.vocab_size);
}

std::span<const float> Decoder::Step() {
  Embed();
  const auto n_layers = static_cast<int>(f_.plan.layers.size());
  for (int layer = 0; layer < n_layers; ++layer) {
    attention_.Run(layer);
    feed_forward_.Run(layer);
    if (f_.observer != nullptr && layer + 1 < n_layers) ObserveHidden(layer + 1, nullptr);
  }
  return Head();
}

void Decoder::Embed() {
  const Matrix& embedding = f_.weights.embedding;
  const std::int64_t D = f_.config.hidden_size;
  const auto row_bytes = D * static_cast<std::int64_t>(BytesOf(embedding.dtype()));
  f_.x.SetOnHost();
  f_.host.ForRows(f_.T(), [&](std::int64_t t0, std::int64_t t1) {
    for (std::int64_t t = t0; t < t1; ++t) {
      const std::int64_t id = f_.batch.rows[t].token;
      for (const HostShard& s : embedding.shards) {
        if (id < s.row0 || id >= s.row1) continue;
        f_.host.kernels.widen(
            {s.data + (id - s.row0) * row_bytes, embedding.dtype(), f_.x.host() + t * D, D});
      }
    }
  });
  if (f_.observer != nullptr) ObserveHidden(0, nullptr);
}

std::span<const float> Decoder::Head() {
  wanted_.clear();
  for (std::int64_t t = 0; t < f_.T(); ++t) {
    if (f_.batch.rows[t].wants_logits) wanted_.push_back(static_cast<std::int32_t>(t));
  }
  const auto wanted = static_cast<std::int64_t>(wanted_.size());
  const std::size_t floats = wanted * f_.config.vocab_size;
  if (logits_.bytes() < floats * sizeof(float)) logits_ = HostBuffer(floats * sizeof(float));
  if (wanted > 0 || f_.observer != nullptr) {
    f_.x.MoveTo(f_.plan.head, f_.T());
    if (f_.plan.head.on_device()) {
      HeadOnDevice(wanted);
    } else {
      HeadOnHost(wanted);
    }
  }
  if (f_.device != nullptr) f_.device->device.Finish();  // the step's host memory is free again
  return {logits_.as<float>(), floats};
}

void Decoder::HeadOnHost(std::int64_t wanted) {
  const Config& c = f_.config;
  RmsNormOnHost(f_.host, f_.x.host(), c.hidden_size, f_.weights.final_norm, normed_, c.hidden_size,
                f_.T(), c.rms_norm_eps);
  if (f_.observer != nullptr) ObserveHidden(static_cast<int>(c.num_hidden_layers), normed_.row(0));
  if (wanted == 0) return;
  const HostLinear head{&f_.weights.lm_head, normed_.rows(), wanted_.data(), logits_.as<float>(),
                        c.vocab_size,        wanted,         false};
  LinearOnHost(f_.host, {&head, 1});
}

void Decoder::HeadOnDevice(std::int64_t wanted) {
  const Config& c = f_.config;
  const std::int64_t D = c.hidden_size;
  DeviceSide& d = *f_.device;
  const std::size_t row_bytes = D * sizeof(float);
  d.kernels.RmsNorm({f_.x.on_device(), D, f_.weights.final_norm.device, dnormed_, D, f_.T(), D,
                     static_cast<float>(c.rms_norm_eps)});
  if (f_.observer != nullptr) {
    d.device.BlockingRead(dnormed_.buffer, 0, normed_.row(0), f_.T() * row_bytes);
    ObserveHidden(static_cast<int>(c.num_hidden_layers), normed_.row(0));
  }
  // Rows that want logits move to the front: usually one, so a copy each is cheap.
  for (std::int64_t i = 0; i < wanted; ++i) {
    if (wanted_[i] != i) {
      d.device.Copy(dnormed_.buffer, wanted_[i] * row_bytes, dnormed_.buffer, i * row_bytes,
                    row_bytes);
    }
  }
  const Matrix& head = f_.weights.lm_head;
  d.metrics.device_weight_bytes += head.info->bytes();
  // The logits of many rows would be large: some rows at a time.
  for (std::int64_t i = 0; i < wanted; i += logit_rows_) {
    const std::int64_t n = std::min(logit_rows_, wanted - i);
    d.kernels.Linear({{dnormed_.buffer, i * D}, D, head.device, dlogits_, c.vocab_size, n, false});
    d.device.BlockingRead(dlogits_.buffer, 0, logits_.as<float>() + i * c.vocab_size,
                          n * c.vocab_size * sizeof(float));
  }
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
