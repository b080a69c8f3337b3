#include "runtime/expert_stream.h"

#include <algorithm>
#include <iterator>

#include "memory/error.h"
#include "placement/scratch.h"
#include "runtime/clock.h"
#include "runtime/device_experts.h"
#include "runtime/expert_copy.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

constexpr std::int64_t kEntryWords = sizeof(cl::ExpertEntry) / sizeof(cl_int);

// What `queue` gets from here on waits for the event.
void WaitInQueue(cl_command_queue queue, const ClEventHandle& event) {
  cl_event e = event.get();
  if (e == nullptr) return;
  ClCheck(clEnqueueBarrierWithWaitList(queue, 1, &e, nullptr), "clEnqueueBarrierWithWaitList");
}

ClEventHandle Marker(cl_command_queue queue) {
  cl_event event = nullptr;
  ClCheck(clEnqueueMarkerWithWaitList(queue, 0, nullptr, &event), "clEnqueueMarkerWithWaitList");
  return ClEventHandle(event);
}

MatrixRange Bf16Range(const Matrix& m, std::uint64_t at) {
  return {at, static_cast<std::uint64_t>(m.rows() * m.cols()) * 2, 0};
}

bool Streams(const MlpWeights& w) { return w.gate && !w.gate.place.on_device(); }

}  // namespace

ExpertStream::ExpertStream(const Plan& plan, const Weights& weights, HostSide& host,
                           DeviceSide& device)
    : plan_(plan),
      weights_(weights),
      host_(host),
      device_(device),
      ring_(device.device, kStreamPieces * kStreamPieceBytes),
      tiles_(device.device, std::tuple_size_v<decltype(tile_reads_)> * StreamTileBytes(plan)),
      copies_(device.device, DrainWatchdog()),
      pieces_(kStreamPieces),
      slots_(kStreamSlots),
      raw_(device.Scratch("stream").buffer),
      packed_(plan.stream.bf16_bytes > 0),
      expert_raw_(plan.stream.expert_bytes),
      expert_bf16_(plan.stream.bf16_bytes),
      tables_(device.Scratch("stream tables").buffer) {
  if (packed_) bf16_ = device.Scratch("stream bf16").buffer;
  BuildTables();
}

// For every layer a table in which all its experts are there, and one for each group with that
// group's places alone.
void ExpertStream::BuildTables() {
  std::vector<cl::ExpertEntry> entries;
  for (std::size_t l = 0; l < weights_.layers.size(); ++l) {
    const LayerWeights& w = weights_.layers[l];
    Layer& layer = layers_.emplace_back();
    if (w.experts.empty()) continue;
    table_entries_ = static_cast<std::int64_t>(w.experts.size()) + 1;
    layer.first_table = std::ssize(entries);
    entries.resize(entries.size() + static_cast<std::size_t>(table_entries_));
    for (std::size_t e = 0; e < w.experts.size(); ++e) {
      if (IsFurther(w.experts[e].gate.place)) continue;  // runs there
      cl::ExpertEntry& all = entries[static_cast<std::size_t>(layer.first_table) + e];
      all.slab = 0;
      all.F = static_cast<cl_int>(w.experts[e].gate.rows());
      if (Streams(w.experts[e])) layer.experts.push_back(static_cast<int>(e));
    }
    if (w.shared.gate) {  // where it runs beside the experts; else nobody chooses it
      cl::ExpertEntry& shared =
          entries[static_cast<std::size_t>(layer.first_table) + w.experts.size()];
      shared.slab = 0;
      shared.F = static_cast<cl_int>(w.shared.gate.rows());
    }
    std::size_t slot = 0;
    for (std::size_t i = 0; i < layer.experts.size(); i += kStreamSlotExperts) {
      const auto first = static_cast<std::size_t>(std::ssize(entries));
      entries.resize(first + static_cast<std::size_t>(table_entries_));
      const std::size_t n = std::min<std::size_t>(kStreamSlotExperts, layer.experts.size() - i);
      for (std::size_t j = 0; j < n; ++j) {
        const auto e = static_cast<std::size_t>(layer.experts[i + j]);
        entries[first + e] = EntryInSlot(w.experts[e], slot, j);
      }
      slot = (slot + 1) % kStreamSlots;
    }
  }
  const std::size_t bytes = entries.size() * sizeof(cl::ExpertEntry);
  TANDEM_CHECK(bytes <= device_.ScratchBytes("stream tables"));
  device_.device.BlockingWrite(tables_, 0, entries.data(), bytes);
}

cl::ExpertEntry ExpertStream::EntryInSlot(const MlpWeights& w, std::size_t slot,
                                          std::size_t index) const {
  const std::size_t place = slot * kStreamSlotExperts + index;
  cl::ExpertEntry entry;
  entry.slab = 0;
  entry.F = static_cast<cl_int>(w.gate.rows());
  if (packed_) {
    const MatrixRange gate = Bf16Range(w.gate, place * expert_bf16_);
    const MatrixRange up = Bf16Range(w.up, gate.end);
    entry.gate = gate.data;
    entry.up = up.data;
    entry.down = up.end;
    return entry;
  }
  const MatrixRange gate = HostRange(w.gate, place * expert_raw_);
  const MatrixRange up = HostRange(w.up, gate.end);
  const MatrixRange down = HostRange(w.down, up.end);
  entry.gate = gate.data;
  entry.gate_scale = gate.side;
  entry.up = up.data;
  entry.up_scale = up.side;
  entry.down = down.data;
  entry.down_scale = down.side;
  return entry;
}

cl::Span ExpertStream::Table(int layer) const {
  return {tables_, layers_[static_cast<std::size_t>(layer)].first_table * kEntryWords};
}

void ExpertStream::Run(int layer, cl::ExpertsArgs a) {
  const double start = Now();
  const Layer& l = layers_[static_cast<std::size_t>(layer)];
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const cl_mem slab = packed_ ? bf16_ : raw_;
  a.slabs = {&slab, 1};
  if (packed_) a.gate_up = a.down = DType::kBF16;
  a.sum = false;
  Used used = ReadTiles(a, w.experts.size());
  std::int64_t table = l.first_table;
  next_slot_ = 0;  // as BuildTables counted
  for (std::size_t i = 0; i < l.experts.size(); i += kStreamSlotExperts) {
    table += table_entries_;
    const std::size_t slot = next_slot_;
    next_slot_ = (next_slot_ + 1) % kStreamSlots;
    std::vector<const MlpWeights*> group;
    const std::size_t n = std::min<std::size_t>(kStreamSlotExperts, l.experts.size() - i);
    for (std::size_t j = 0; j < n; ++j) {
      const int e = l.experts[i + j];
      group.push_back(IsUsed(used, e) ? &w.experts[static_cast<std::size_t>(e)] : nullptr);
    }
    if (std::ranges::count(group, nullptr) == std::ssize(group)) continue;
    CopyGroup(group, slot);
    AfterCopies();
    if (packed_) Unpack(group, slot);
    a.table = {tables_, table * kEntryWords};
    device_.kernels.Experts(a);
    slots_[slot].done = Marker(device_.device.queue());
    device_.device.Flush();
  }
  seconds_ += Now() - start;
}

// Enqueues a read of the tiles that Group listed, and of their number behind them.
ExpertStream::Used ExpertStream::ReadTiles(const cl::ExpertsArgs& a, std::size_t experts) {
  const auto tile_bytes = static_cast<std::size_t>(a.max_tiles) * sizeof(cl::ExpertTile);
  TANDEM_CHECK(tile_bytes + sizeof(std::int32_t) <= StreamTileBytes(plan_));
  ClEventHandle& last = tile_reads_[next_tile_read_];
  if (last) device_.device.Await(last.get());  // of some layers ago: it has arrived
  std::byte* room = tiles_.host() + next_tile_read_ * StreamTileBytes(plan_);
  next_tile_read_ = (next_tile_read_ + 1) % tile_reads_.size();
  device_.Read(a.tiles, room, tile_bytes);
  last = device_.Read(a.n_tiles, room + tile_bytes, sizeof(std::int32_t));
  ClCheck(clRetainEvent(last.get()), "clRetainEvent");
  Used used;
  used.arrived.reset(last.get());
  used.tiles = reinterpret_cast<const cl::ExpertTile*>(room);
  used.n_tiles = reinterpret_cast<const std::int32_t*>(room + tile_bytes);
  used.max_tiles = a.max_tiles;
  used.experts.reserve(experts);
  return used;
}

bool ExpertStream::IsUsed(Used& used, int expert) const {
  if (used.experts.empty()) {
    if (!IsComplete(used.arrived, device_.device)) return true;
    used.experts.resize(used.experts.capacity());
    const std::int64_t n = std::min<std::int64_t>(*used.n_tiles, used.max_tiles);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto e = static_cast<std::size_t>(used.tiles[i].expert);
      if (e < used.experts.size()) used.experts[e] = true;  // the shared expert is behind them
    }
  }
  return used.experts[static_cast<std::size_t>(expert)];
}

void ExpertStream::CopyGroup(const std::vector<const MlpWeights*>& group, std::size_t slot) {
  WaitInQueue(copies_.get(), slots_[slot].done);
  std::vector<HostRun> runs;
  for (std::size_t j = 0; j < group.size(); ++j) {
    if (group[j] == nullptr) continue;
    std::uint64_t at = (slot * kStreamSlotExperts + j) * expert_raw_;
    for (const Matrix* m : {&group[j]->gate, &group[j]->up, &group[j]->down}) {
      std::ranges::copy(HostRuns(*m, at), std::back_inserter(runs));
      at = HostRange(*m, at).end;
    }
  }
  for (const std::vector<HostRun>& piece : InPieces(runs, kStreamPieceBytes)) CopyPiece(piece);
}

// `runs`, whose destinations rise, lie less than a piece apart and leave only short gaps.
void ExpertStream::CopyPiece(const std::vector<HostRun>& runs) {
  Piece& piece = pieces_[next_piece_];
  std::byte* room = ring_.host() + next_piece_ * kStreamPieceBytes;
  next_piece_ = (next_piece_ + 1) % kStreamPieces;
  if (piece.copied) device_.device.Await(piece.copied.get());
  const std::uint64_t first = runs.front().at;
  host_.pool.Run([&](const Worker& worker) {
    for (const HostRun& run : runs) CopyShare(room + (run.at - first), run.from, run.bytes, worker);
  });
  const std::uint64_t bytes = runs.back().at + runs.back().bytes - first;
  cl_event event = nullptr;
  ClCheck(
      clEnqueueWriteBuffer(copies_.get(), raw_, CL_FALSE, first, bytes, room, 0, nullptr, &event),
      "clEnqueueWriteBuffer of a streamed expert", device_.device);
  piece.copied.reset(event);
  ClCheck(clRetainEvent(event), "clRetainEvent");
  last_copy_.reset(event);
  ClCheck(clFlush(copies_.get()), "clFlush", device_.device);
  for (const HostRun& run : runs) moved_bytes_ += run.bytes;
}

void ExpertStream::AfterCopies() { WaitInQueue(device_.device.queue(), last_copy_); }

void ExpertStream::Unpack(const std::vector<const MlpWeights*>& group, std::size_t slot) {
  for (std::size_t j = 0; j < group.size(); ++j) {
    if (group[j] == nullptr) continue;
    const std::size_t place = slot * kStreamSlotExperts + j;
    std::uint64_t from = place * expert_raw_;
    std::uint64_t to = place * expert_bf16_;
    for (const Matrix* m : {&group[j]->gate, &group[j]->up, &group[j]->down}) {
      device_.kernels.Panels({raw_,
                              from,
                              m->dtype(),
                              m->rows(),
                              m->cols(),
                              {bf16_, static_cast<std::int64_t>(to / 2)}});
      from = HostRange(*m, from).end;
      to = Bf16Range(*m, to).end;
    }
  }
}

void ExpertStream::ResetCounts() {
  moved_bytes_ = 0;
  seconds_ = 0;
}

}  // namespace tandem
