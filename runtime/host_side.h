#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "cpu_kernels/kernel_table.h"
#include "memory/host_buffer.h"
#include "runtime/metrics.h"
#include "runtime/weights.h"
#include "runtime/worker_pool.h"

namespace tandem {

// Rows of activations on the host: f32, and the same rounded to bf16 or quantised (cpu::LinearArgs)
// where kernels like that better and the run allows it.
struct HostRows {
  const float* f32 = nullptr;
  const std::uint16_t* bf16 = nullptr;  // null: there is none
  const std::int8_t* q8 = nullptr;      // null: there is none
  const float* scale = nullptr;         // of q8
  const std::int32_t* sum = nullptr;    // of q8
  std::int64_t stride = 0;              // elements, of all
};

// Rows in a scratch buffer, with their shadows where there are any. Non-owning.
class HostActivation {
 public:
  HostActivation() = default;
  HostActivation(float* f32, std::int64_t width) : stride_(width), f32_(f32) {}
  // `memory` holds QuantizedFloats(values) floats: codes, then scales, then sums.
  HostActivation(float* f32, std::uint16_t* bf16, float* quantized, std::int64_t values,
                 std::int64_t width);

  float* row(std::int64_t t) const { return f32_ + t * stride_; }
  std::int64_t stride() const { return stride_; }
  // From value `at` on, as rows of another width: MLPs of a MoE layer lie one behind another.
  HostActivation At(std::int64_t at, std::int64_t width) const;
  HostRows rows() const { return {f32_, bf16_, q8_, scale_, sum_, stride_}; }
  // Brings the shadows of values [from, from + n) of row t up to date; both in whole blocks of 32
  // where there is a quantised shadow.
  void Shade(const cpu::KernelTable& kernels, std::int64_t t, std::int64_t from,
             std::int64_t n) const;

 private:
  std::int64_t stride_ = 0;
  float* f32_ = nullptr;
  std::uint16_t* bf16_ = nullptr;
  std::int8_t* q8_ = nullptr;
  float* scale_ = nullptr;
  std::int32_t* sum_ = nullptr;
};

// The CPU half of an engine: the team, the kernels, and the memory of its steps.
struct HostSide {
  // Allocates every buffer of placement/scratch.h's list for this plan: no step allocates.
  HostSide(const Plan& plan, const Config& config);

  bool HasScratch(const std::string& name) const { return scratch_.contains(name); }
  // A buffer of the list; it is an internal error if it is not there.
  std::span<float> Scratch(const std::string& name) const;
  std::uint64_t scratch_bytes() const;
  // The same as rows of `width` values, with the shadows "<name> bf16" and "<name> q8" if they are
  // in the list.
  HostActivation Activation(const std::string& name, std::int64_t width) const;

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
  // That the plan gave every worker at least `floats` of scratch.
  void CheckWorkerScratch(std::int64_t floats) const;

  WorkerPool pool;
  cpu::KernelTable kernels;
  bool round_activations;              // kernels for few rows take bf16 too
  std::vector<TicketCounter> tickets;  // per node, for the Run in progress
  std::vector<TicketCounter> tickets2;
  Metrics metrics;

 private:
  void ChooseKernels(const Plan& plan);

  std::map<std::string, HostBuffer> scratch_;
  std::vector<HostBuffer> worker_scratch_;  // the list's "workers", a piece for each
};

// y[t, :] = RMSNorm(x[t, :]), with the shadows that y has.
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

// Calls the kernel for w's format and args.T rows of x that suits best, on the shadow of x that it
// takes. All of args but x is set.
void CallLinear(const HostSide& host, const Matrix& w, const HostRows& x, cpu::LinearArgs& args);

// Rows per ticket, so that every worker takes several and all finish together.
std::int64_t TicketRows(std::int64_t total_rows, int workers, std::int64_t T);

}  // namespace tandem
