#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cl_kernels/args.h"
#include "memory/cl_in_place.h"
#include "memory/cl_shared.h"
#include "placement/scratch.h"
#include "runtime/device_side.h"
#include "runtime/expert_copy.h"
#include "runtime/host_side.h"
#include "runtime/weights.h"

namespace tandem {

// Host experts on their way through a device in prefill (Plan::stream_prefill): a queue of its own
// carries them to slots of a few experts on the device, and the compute queue runs them there, slot
// after slot. Copies begin where the experts lie, whose memory is locked for it, or else in pinned
// pieces that the team copies them into. Nothing here waits for the device but for the room that it
// needs: while one layer computes, the next one's experts are under way.
//
// Block formats travel in the CPU's panels and become bf16 on the device; the others travel as they
// are.
class ExpertStream {
 public:
  // For plans with stream_prefill. All arguments outlive this.
  ExpertStream(const Plan& plan, const Weights& weights, HostSide& host, DeviceSide& device);
  ExpertStream(const ExpertStream&) = delete;
  ExpertStream& operator=(const ExpertStream&) = delete;

  // The table of a layer in which streamed experts count as being on the device: for Group.
  cl::Span Table(int layer) const;
  // Enqueues the layer's host experts, slot by slot: act and pair_out of `a`, whose tiles Group
  // made from Table. The sum is the caller's.
  void Run(int layer, cl::ExpertsArgs a);

  bool in_place() const { return in_place_; }
  std::uint64_t moved_bytes() const { return moved_bytes_; }
  // From the beginning of a step's first Run to the end of its last, of all steps.
  double seconds() const { return seconds_; }
  void ResetCounts();

 private:
  struct Layer {
    std::vector<int> experts;      // that stream, in their order
    std::int64_t first_table = 0;  // table of all, then one for each group
    std::size_t first_slot = 0;    // of the first group
  };
  struct Slot {
    ClEventHandle done;  // the compute queue has finished with it
  };
  struct Piece {
    ClEventHandle copied;  // its last copy has left it
  };

  // What the tiles say of a layer: known once a read of them has arrived, behind which the host
  // does not wait; until then every expert counts as used.
  struct Used {
    ClEventHandle arrived;
    const cl::ExpertTile* tiles = nullptr;
    const std::int32_t* n_tiles = nullptr;
    std::int64_t max_tiles = 0;
    std::vector<bool> experts;  // empty: not known yet
  };

  Used ReadTiles(const cl::ExpertsArgs& a, std::size_t experts);
  bool IsUsed(Used& used, int expert) const;
  void BuildTables();
  cl::ExpertEntry EntryInSlot(const MlpWeights& w, std::size_t slot, std::size_t index) const;
  // `group` has nulls where an expert is not used.
  void CopyGroup(const std::vector<const MlpWeights*>& group, std::size_t slot);
  void CopyPiece(const std::vector<HostRun>& runs);  // to raw_, through the ring
  // The place of the next copy in the ring, once the copy before has left it.
  std::size_t NextPiece();
  void CopyToRaw(std::size_t piece, const std::byte* from, std::uint64_t bytes, std::uint64_t at);
  bool LockExperts();
  // Bytes a second of copies from there to raw_.
  double CopyRate(const std::byte* from, std::uint64_t bytes);
  bool CopiesInPlace();
  void Unpack(const std::vector<const MlpWeights*>& group, std::size_t slot);
  void AfterCopies();  // the compute queue waits for what was copied

  const Plan& plan_;
  const Weights& weights_;
  HostSide& host_;
  DeviceSide& device_;
  ClInPlace locked_;
  bool in_place_ = false;
  ClPinned ring_;
  ClPinned tiles_;      // of kStreamTileReads layers
  ClSideQueue copies_;  // ends before the memory that it copies from goes
  std::array<ClEventHandle, kStreamTileReads> tile_reads_;
  std::size_t next_tile_read_ = 0;
  std::vector<Piece> pieces_;
  std::size_t next_piece_ = 0;
  std::vector<Slot> slots_;
  ClEventHandle last_copy_;
  cl_mem raw_ = nullptr;   // slots of experts as they travel
  cl_mem bf16_ = nullptr;  // one slot's, decoded; null where they travel in a format of the device
  bool packed_ = false;
  std::uint64_t expert_raw_ = 0;   // bytes of an expert's place in raw_
  std::uint64_t expert_bf16_ = 0;  // and in bf16_
  std::vector<Layer> layers_;
  cl_mem tables_ = nullptr;
  std::int64_t table_entries_ = 0;  // of one table
  std::uint64_t moved_bytes_ = 0;
  double seconds_ = 0;
  double counted_until_ = 0;  // seconds_ has all until then
  int last_layer_ = -1;       // whose Run was the last
};

}  // namespace tandem
