#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"
#include "placement/model_sizes.h"
#include "placement/plan.h"

namespace tandem {

// A buffer that the runtime allocates for the steps of a plan. The runtime takes its sizes from
// here, so that the plan's bytes are the real ones.
struct ScratchBuffer {
  const char* name;  // unique on its side
  std::int64_t floats = 0;
  bool pinned = false;  // the OpenCL driver's, allocated by the part of the runtime that uses it
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(floats) * sizeof(float); }
};

// Which parts of the model run on a side; what does not needs no buffers there.
struct ScratchUse {
  bool attention = false;
  bool mlp = false;  // dense MLPs or shared experts
  bool router = false;
  bool experts = false;  // routed experts
  bool head = false;
  bool any_device = false;  // on the host: a device takes part in the plan
  bool cache = false;       // of experts, on this device
  bool first = false;       // of the devices: it hands over, and streams
  bool feed = false;        // steps are enqueued ahead: of the host and the first device
};
ScratchUse UseOf(const Plan& plan, Place place);

// Every buffer of a side of the plan. Depends on the plan's rows, blocks, sequences, threads,
// activation type and on `use`.
std::vector<ScratchBuffer> HostScratch(const Config& config, const Plan& plan,
                                       const ScratchUse& use);
std::vector<ScratchBuffer> DeviceScratch(const Config& config, const Plan& plan,
                                         const ScratchUse& use);

// The largest of them that the device must allow, with the driver's pinned memory on the host,
// which it allocates one by one.
ScratchBuffer LargestBuffer(const Config& config, const Plan& plan, const ScratchUse& use);

// Rows of activations quantised for block formats: codes of a byte, a scale for every 32 and a sum
// for every 16 values; sizes in floats, each part on cache lines.
inline constexpr std::int64_t kQuantizedBlock = 32;
inline constexpr std::int64_t kQuantizedSum = 16;
constexpr std::int64_t WholeLines(std::int64_t floats) { return (floats + 15) / 16 * 16; }
constexpr std::int64_t QuantizedCodes(std::int64_t values) { return WholeLines((values + 3) / 4); }
constexpr std::int64_t QuantizedScales(std::int64_t values) {
  return WholeLines(values / kQuantizedBlock + 1);
}
constexpr std::int64_t QuantizedFloats(std::int64_t values) {
  return QuantizedCodes(values) + QuantizedScales(values) + WholeLines(values / kQuantizedSum + 1);
}

// One head's inputs of W_UK or W_UV for so many rows, with their shadows.
constexpr std::int64_t HeadMapFloats(const Config& c, std::int64_t rows) {
  const std::int64_t values =
      rows * (c.qk_nope_head_dim > c.kv_lora_rank ? c.qk_nope_head_dim : c.kv_lora_rank);
  return WholeLines(values) + WholeLines((values + 1) / 2) + QuantizedFloats(values);
}

// Streaming (Plan::stream): experts of a slot, and the pinned pieces that copies go through.
inline constexpr std::int64_t kStreamSlotExperts = 4;
inline constexpr std::int64_t kStreamPieces = 6;
inline constexpr std::uint64_t kStreamPieceBytes = std::uint64_t{8} << 20;

// Slots, as many as a 16th of the device's budget holds: copies go on in them while a layer's
// attention runs, and while dense layers do before the first one.
std::int64_t StreamSlots(const Plan& plan);
// What must lie in one buffer with the fewest of them.
std::uint64_t LeastStreamBuffer(const StreamPlan& stream);

// Tiles of a layer's experts, which the host reads back to leave out those that no row chose.
std::uint64_t StreamTileBytes(const Plan& plan);
inline constexpr std::int64_t kStreamTileReads = 4;

// Experts on their way to the cache (Plan::cache) at the same time.
inline constexpr std::int64_t kCacheUnderWay = 2;

// How a layer's KV cache lies on the plan's first device, which has that of every layer with
// attention there.
KvBuffers KvBuffersOf(const Config& config, const Plan& plan);

// Words of the batch of a step of so many rows (runtime/batch.h): angles, slot, keys and table
// start of every row, and the block tables of all sequences.
std::int64_t BatchWords(const Config& config, const Plan& plan, std::int64_t rows);

// Rows of one step whose logits there is room for: more are handed out in pieces.
std::int64_t LogitRows(const Plan& plan);

// Output rows of a matrix that one worker takes at a time, at the most, for T rows of x.
constexpr std::int64_t MostTicketRows(std::int64_t T) { return T >= 64 ? 256 : 128; }

std::uint64_t SumBytes(const std::vector<ScratchBuffer>& buffers);

// Host memory beside weights, KV cache and scratch: the program and its libraries, tokenizer,
// tensor list, the OpenCL driver's and allocators' own. An upper bound from measurements.
std::uint64_t ProgramBytes(const Config& config, std::size_t tensors, const Plan& plan);

}  // namespace tandem
