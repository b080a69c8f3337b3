#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "memory/host_buffer.h"
#include "runtime/metrics.h"
#include "runtime/weights.h"
#include "runtime/worker_pool.h"

namespace tandem {

// Rows of activations on the host: f32, and the same rounded to bf16 where kernels like that better
// and the run allows it.
struct HostRows {
  const float* f32 = nullptr;
  const std::uint16_t* bf16 = nullptr;  // null: use f32
  std::int64_t stride = 0;              // elements, of both
};

// A growing f32 buffer with its bf16 shadow.
class HostActivation {
 public:
  HostActivation() = default;
  HostActivation(std::int64_t rows, std::int64_t width, bool shadow)
      : stride_(width),
        f32_(rows * width * sizeof(float)),
        bf16_(shadow ? rows * width * sizeof(std::uint16_t) : 0) {}
  float* row(std::int64_t t) const { return f32_.as<float>() + t * stride_; }
  std::uint16_t* bf16_row(std::int64_t t) const { return bf16_.as<std::uint16_t>() + t * stride_; }
  std::int64_t stride() const { return stride_; }
  bool shadowed() const { return bf16_.bytes() > 0; }
  HostRows rows() const { return {row(0), shadowed() ? bf16_row(0) : nullptr, stride_}; }

 private:
  std::int64_t stride_ = 0;
  HostBuffer f32_;
  HostBuffer bf16_;
};

// The CPU half of an engine: the team, the kernels, and what its operations share.
struct HostSide {
  HostSide(const Plan& plan, const Config& config);

  // Calls fn(t0, t1) over [0, T): on this thread where the work is small, else on the team.
  template <class Fn>
  void ForRows(std::int64_t rows, Fn&& fn) {
    if (rows < std::int64_t{2} * pool.size()) return fn(std::int64_t{0}, rows);
    pool.Run([&](const Worker& w) {
      const std::int64_t t0 = rows * w.index / w.count;
      const std::int64_t t1 = rows * (w.index + 1) / w.count;
      if (t0 < t1) fn(t0, t1);
    });
  }
  void ResetTickets();
  float* scratch(const Worker& w) const { return worker_scratch_[w.index].as<float>(); }
  // At least `floats` of scratch for every worker, by growing.
  void ReserveScratch(std::int64_t floats);

  WorkerPool pool;
  cpu::KernelTable kernels;
  bool round_activations;              // keep bf16 shadows
  std::vector<TicketCounter> tickets;  // per node, for the Run in progress
  std::vector<TicketCounter> tickets2;
  Metrics metrics;

 private:
  std::vector<HostBuffer> worker_scratch_;
  std::int64_t scratch_floats_ = 0;
};

// y[t, :] = RMSNorm(x[t, :]), with the shadow where y has one.
void RmsNormOnHost(HostSide& host, const float* x, std::int64_t x_stride, const Vector& w,
                   const HostActivation& y, std::int64_t width, std::int64_t T, double eps);

// y[yr(t), n] (+)= sum_k x[xr(t), k] w[n, k], as cpu::LinearArgs.
struct HostLinear {
  const Matrix* w = nullptr;
  HostRows x;
  const std::int32_t* x_rows = nullptr;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  std::int64_t T = 0;
  bool accumulate = false;
};

// Runs some products in one go on the whole team; each node works on the rows that it holds.
void LinearOnHost(HostSide& host, std::span<const HostLinear> tasks);

// The arguments for rows [r0, r1) of a shard (counted inside it), numbered from 0 in y.
cpu::LinearArgs ShardArgs(const HostShard& shard, const Matrix& m, std::int64_t r0,
                          std::int64_t r1);
void SetX(cpu::LinearArgs& args, const HostRows& x);

// Rows per ticket, so that every worker takes several and all finish together.
std::int64_t TicketRows(std::int64_t total_rows, int workers, std::int64_t T);

}  // namespace tandem
