#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "cl_kernels/kernels.h"
#include "memory/cl_device.h"

namespace tandem {

// How a MoE layer whose experts are partly on the host passes between the device and the CPU team.
enum class HandOverKind {
  kPolled,  // host-located buffers: the team polls a flag, a bounded waiting kernel polls another
  kEvents,  // pinned memory, read and write commands, events: every device
};
std::string_view Name(HandOverKind kind);  // "polled", "events"

// What the host needs of a layer: valid from Await to Deliver.
struct HandOverInput {
  const float* h = nullptr;           // [T, D]
  const std::int32_t* ids = nullptr;  // [T, K]
  const float* weights = nullptr;     // [T, K]
};

struct HandOverShape {
  std::int64_t D = 0;         // hidden_size
  std::int64_t K = 0;         // num_experts_per_tok
  std::int64_t max_rows = 0;  // of a step
};

// Steps of up to so many rows are handed over by polling, and their layers may overlap; more rows
// travel quicker as copies, whose start costs are little beside them.
inline constexpr std::int64_t kPolledRows = 32;

// One direction device -> host -> device per layer, in the order of the layers, any number of times
// in a step. Two threads, or one in both roles: one enqueues, as far ahead as it likes; one
// computes (Await, Deliver for the same layers in the same order). The enqueuing one calls Publish,
// then Take for each layer. In steps of at most kPolledRows rows it may publish the next layer
// before it takes the last, so that two are on their way: never a third, whose input would lie
// where the first's does.
class HandOver {
 public:
  virtual ~HandOver() = default;
  virtual HandOverKind kind() const = 0;  // of the step that BeginStep began last

  // Before a step of T rows, by the computing thread, with nothing under way.
  virtual void BeginStep(std::int64_t T) = 0;

  // ---- the enqueuing thread; only enqueues
  // h [T, D] f32, ids i32 [T, K] and weights f32 [T, K] are on the device by now (in queue order).
  virtual void Publish(const cl::Span& h, const cl::Span& ids, const cl::Span& weights) = 0;
  // x[t, :] += the host's sum of the first layer that was published and not taken yet; rows
  // x_stride apart.
  virtual void Take(const cl::Span& x, std::int64_t x_stride) = 0;

  // ---- the computing thread
  // Waits for the next layer's input, at most as long as the watchdog allows. Throws OpenClError.
  // The layer before must be delivered.
  virtual HandOverInput Await() = 0;
  // Where the host's sum [T, D] of that layer goes: written whole between Await and Deliver.
  virtual float* sum() = 0;
  virtual void Deliver() = 0;
  // Lets the device run on without sums, after the host failed: the step is lost, the queue is not.
  virtual void Abandon() noexcept = 0;

  // After the step's last wait: throws OpenClError if a waiting kernel gave up in it.
  virtual void EndStep() = 0;

  // Seconds that the computing thread has waited in Await, all steps together.
  virtual double wait_s() const = 0;
};

// Host memory and device memory that either kind takes, for the plan.
std::uint64_t HandOverHostBytes(const HandOverShape& shape);
std::uint64_t HandOverDeviceBytes(const HandOverShape& shape);

// `kind`: nullopt lets the device decide: polled where it has host-located memory and does not
// share the cores, else events. Throws OpenClError where a demanded kind is not there.
// `wait_turns`: after so many turns a waiting kernel gives up (0: about a second).
std::unique_ptr<HandOver> MakeHandOver(const ClDevice& device, cl::Kernels& kernels,
                                       const HandOverShape& shape,
                                       std::optional<HandOverKind> kind = std::nullopt,
                                       std::uint64_t wait_turns = 0);

}  // namespace tandem
