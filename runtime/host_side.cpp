#include "runtime/host_side.h"

#include <algorithm>
#include <string_view>

#include "memory/blocks.h"
#include "memory/error.h"
#include "placement/scratch.h"

namespace tandem {
namespace {

// Without a device hand-outs follow each other within microseconds. Beside a GPU the team waits for
// its part of every layer: longer than a sleep and a wake-up of 16 threads should cost. A device
// that is the CPU itself wants the cores.
constexpr int kSpinUs = 50;
constexpr int kSpinBesideGpuUs = 1000;
constexpr int kSpinSharedUs = 3;

int SpinUs(const Plan& plan) {
  if (plan.devices.empty()) return kSpinUs;
  const bool shares = std::ranges::any_of(plan.devices, &PlanDevice::shares_cores);
  return shares ? kSpinSharedUs : kSpinBesideGpuUs;
}

}  // namespace

HostActivation::HostActivation(float* f32, std::uint16_t* bf16, float* quantized,
                               std::int64_t values, std::int64_t width)
    : stride_(width), f32_(f32), bf16_(bf16) {
  if (quantized == nullptr || width % kQuantizedBlock != 0) return;
  q8_ = reinterpret_cast<std::int8_t*>(quantized);
  scale_ = quantized + QuantizedCodes(values);
  sum_ = reinterpret_cast<std::int32_t*>(scale_ + QuantizedScales(values));
}

HostActivation HostActivation::At(std::int64_t at, std::int64_t width) const {
  HostActivation part = *this;
  part.stride_ = width;
  part.f32_ += at;
  if (bf16_ != nullptr) part.bf16_ += at;
  if (q8_ == nullptr || width % kQuantizedBlock != 0) {
    part.q8_ = nullptr;
    return part;
  }
  part.q8_ += at;
  part.scale_ += at / kQuantizedBlock;
  part.sum_ += at / kQuantizedSum;
  return part;
}

void HostActivation::Shade(const cpu::KernelTable& kernels, std::int64_t t, std::int64_t from,
                           std::int64_t n) const {
  const std::int64_t at = t * stride_ + from;
  if (bf16_ != nullptr) kernels.to_bf16({f32_ + at, bf16_ + at, n});
  if (q8_ == nullptr) return;
  kernels.quantize_rows({f32_ + at, stride_, q8_ + at, scale_ + at / kQuantizedBlock,
                         sum_ + at / kQuantizedSum, stride_, 1, n});
}

HostSide::HostSide(const Plan& plan, const Config& config)
    : pool(plan.nodes, SpinUs(plan)),
      kernels(cpu::MakeKernelTable(cpu::ChooseIsa())),
      round_activations(plan.activation_type == DType::kBF16),
      tickets(plan.nodes.size()),
      tickets2(plan.nodes.size()),
      worker_scratch_(pool.size()) {
  ChooseKernels(plan);
  for (const ScratchBuffer& b : HostScratch(config, plan, UseOf(plan, Place::Host()))) {
    if (b.pinned) continue;
    if (std::string_view(b.name) != "workers") {
      scratch_[b.name] = HostBuffer(b.bytes());
      continue;
    }
    for (HostBuffer& worker : worker_scratch_) {
      worker = HostBuffer(b.bytes() / static_cast<std::uint64_t>(pool.size()));
    }
  }
}

// Kernels for many rows where the run may round for them; F32 and F16 weights have more bits than
// bf16, so only a user who says bf16 gets them rounded.
void HostSide::ChooseKernels(const Plan& plan) {
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto type = static_cast<DType>(i);
    const bool wide = type == DType::kF32 || type == DType::kF16;
    if (!plan.bf16_many_rows || (wide && !round_activations)) kernels.many[i] = {};
  }
}

std::span<float> HostSide::Scratch(const std::string& name) const {
  const auto buffer = scratch_.find(name);
  if (buffer == scratch_.end()) {
    throw Error(ExitCode::kInternal, "no host buffer '" + name + "' is planned");
  }
  return {buffer->second.as<float>(), buffer->second.bytes() / sizeof(float)};
}

std::uint64_t HostSide::scratch_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, buffer] : scratch_) bytes += buffer.bytes();
  for (const HostBuffer& buffer : worker_scratch_) bytes += buffer.bytes();
  return bytes;
}

HostActivation HostSide::Activation(const std::string& name, std::int64_t width) const {
  const auto bf16 = scratch_.find(name + " bf16");
  const auto q8 = scratch_.find(name + " q8");
  const std::span<float> values = Scratch(name);
  return {values.data(), bf16 == scratch_.end() ? nullptr : bf16->second.as<std::uint16_t>(),
          q8 == scratch_.end() ? nullptr : q8->second.as<float>(),
          static_cast<std::int64_t>(values.size()), width};
}

void HostSide::ResetTickets() {
  for (TicketCounter& t : tickets) t.Reset();
  for (TicketCounter& t : tickets2) t.Reset();
}

void HostSide::CheckWorkerScratch(std::int64_t floats) const {
  TANDEM_CHECK(static_cast<std::size_t>(floats) * sizeof(float) <= worker_scratch_[0].bytes());
}

void RmsNormOnHost(HostSide& host, const float* x, std::int64_t x_stride, const Vector& w,
                   const HostActivation& y, std::int64_t width, std::int64_t T, double eps) {
  host.ForRows(T, [&](std::int64_t t0, std::int64_t t1) {
    host.kernels.rmsnorm({x + t0 * x_stride, x_stride, w.host.data(), y.row(t0), y.stride(),
                          t1 - t0, width, static_cast<float>(eps)});
    for (std::int64_t t = t0; t < t1; ++t) y.Shade(host.kernels, t, 0, width);
  });
}

cpu::LinearArgs ShardArgs(const HostShard& shard, const Matrix& m, std::int64_t r0,
                          std::int64_t r1) {
  cpu::LinearArgs a;
  a.w = shard.data + DataBytes(m.dtype(), r0 * m.cols());  // r0 starts a panel where there are any
  a.w_scale = shard.scale;
  a.scale_stride = m.info->scale_cols();
  a.scale_row0 = r0;
  a.K = m.cols();
  a.n1 = r1 - r0;
  return a;
}

namespace {

void SetX(cpu::LinearArgs& args, const HostRows& x, DType type) {
  args.x_type = type;
  args.x_stride = x.stride;
  args.x = type == DType::kI8     ? static_cast<const void*>(x.q8)
           : type == DType::kBF16 ? static_cast<const void*>(x.bf16)
                                  : x.f32;
  args.x_scale = x.scale;
  args.x_sum = x.sum;
}

bool Has(const HostRows& x, DType type) {
  return type == DType::kI8 ? x.q8 != nullptr : type != DType::kBF16 || x.bf16 != nullptr;
}

// The shadow that the kernel for few rows takes.
DType FewRowsType(const HostSide& host, DType weight, const HostRows& x) {
  if (IsBlockFormat(weight)) return x.q8 != nullptr ? DType::kI8 : DType::kF32;
  return host.round_activations && x.bf16 != nullptr ? DType::kBF16 : DType::kF32;
}

}  // namespace

void CallLinear(const HostSide& host, const Matrix& w, const HostRows& x, cpu::LinearArgs& args) {
  const int format = static_cast<int>(w.dtype());
  const cpu::ManyRows& many = host.kernels.many[format];
  if (many.For(args.T) && Has(x, many.x_type)) {
    SetX(args, x, many.x_type);
    return many.linear(args);
  }
  SetX(args, x, FewRowsType(host, w.dtype(), x));
  host.kernels.linear[format](args);
}

std::int64_t TicketRows(std::int64_t total_rows, int workers, std::int64_t T) {
  const std::int64_t share = total_rows / (static_cast<std::int64_t>(workers) * 6);
  // Two panels of 16 rows, and a whole block of the activations that a gate makes. With many rows
  // of x, x is streamed once per ticket: larger tickets reread it less.
  constexpr std::int64_t kTile = 2 * kPanelRows;
  return std::clamp((share + kTile - 1) / kTile * kTile, kTile, MostTicketRows(T));
}

void LinearOnHost(HostSide& host, std::span<const HostLinear> tasks) {
  std::int64_t total = 0;
  std::int64_t most_rows = 0;
  for (const HostLinear& task : tasks) {
    total += task.w->rows();
    most_rows = std::max(most_rows, task.T);
    host.metrics.host_weight_bytes += task.w->info->bytes();
  }
  const std::int64_t step = TicketRows(total, host.pool.size(), most_rows);
  host.ResetTickets();
  host.pool.Run([&](const Worker& w) {
    while (true) {
      std::int64_t ticket = host.tickets[w.node].Take();
      bool found = false;
      for (const HostLinear& task : tasks) {
        for (const HostShard& shard : task.w->shards) {
          if (shard.node != w.node || found) continue;
          const std::int64_t rows = shard.row1 - shard.row0;
          const std::int64_t chunks = (rows + step - 1) / step;
          if (ticket >= chunks) {
            ticket -= chunks;
            continue;
          }
          found = true;
          const std::int64_t r0 = ticket * step;
          cpu::LinearArgs a = ShardArgs(shard, *task.w, r0, std::min(rows, r0 + step));
          a.x_rows = task.x_rows;
          a.y = task.y + shard.row0 + r0;
          a.y_stride = task.y_stride;
          a.T = task.T;
          a.accumulate = task.accumulate;
          CallLinear(host, *task.w, task.x, a);
        }
      }
      if (!found) return;
    }
  });
}

}  // namespace tandem
