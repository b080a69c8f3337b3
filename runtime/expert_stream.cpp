#include "runtime/expert_stream.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "memory/error.h"
#include "placement/scratch.h"
#include "runtime/clock.h"
#include "runtime/device_experts.h"
#include "runtime/expert_copy.h"
#include "runtime/watchdog.h"

namespace tandem {
namespace {

// Copies in place are cut there, so that room and events come in good time.
constexpr std::uint64_t kMostInPlace = std::uint64_t{16} << 20;

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
      slots_(static_cast<std::size_t>(StreamSlots(plan))),
      raw_(device.Scratch("stream").buffer),
      packed_(plan.stream.bf16_bytes > 0),
      expert_raw_(plan.stream.expert_bytes),
      expert_bf16_(plan.stream.bf16_bytes),
      tables_(device.Scratch("stream tables").buffer) {
  if (packed_) bf16_ = device.Scratch("stream bf16").buffer;
  BuildTables();
  in_place_ = CopiesInPlace();
  if (!in_place_) locked_ = {};
}

// All that streams, layer by layer: the experts of a layer lie in a few pieces. False: the driver
// refused.
bool ExpertStream::LockExperts() {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    std::vector<HostRun> runs;
    for (const int e : layers_[l].experts) {
      const MlpWeights& w = weights_.layers[l].experts[static_cast<std::size_t>(e)];
      for (const Matrix* m : {&w.gate, &w.up, &w.down}) {
        std::ranges::copy(HostRuns(*m, 0), std::back_inserter(runs));
      }
    }
    for (const std::span<const std::byte> range : PageRanges(runs)) {
      if (!locked_.Lock(device_.device, range.data(), range.size())) return false;
    }
  }
  return true;
}

double ExpertStream::CopyRate(const std::byte* from, std::uint64_t bytes) {
  constexpr int kCopies = 4;
  double start = 0;
  for (int i = 0; i <= kCopies; ++i) {
    if (i == 1) start = Now();  // the first one is for whatever happens once
    CopyToRaw(0, from, bytes, 0);
    device_.device.Await(pieces_[0].copied.get());
  }
  return static_cast<double>(bytes * kCopies) / (Now() - start);
}

// Where the driver does not copy from there by DMA, the team and the ring are quicker.
bool ExpertStream::CopiesInPlace() {
  constexpr double kAsQuick = 0.8;
  const StreamMemory memory = plan_.stream.memory;
  if (memory == StreamMemory::kRing) return false;
  const MlpWeights* first = nullptr;
  for (std::size_t l = 0; l < layers_.size() && first == nullptr; ++l) {
    if (layers_[l].experts.empty()) continue;
    first = &weights_.layers[l].experts[static_cast<std::size_t>(layers_[l].experts[0])];
  }
  if (first == nullptr) return false;
  if (!LockExperts()) {
    if (memory == StreamMemory::kAuto) return false;
    Throw<OpenClError>(
        "'placement.stream_memory': locked: '{}' does not lock the memory of the experts; set ring",
        device_.device.info().name);
  }
  if (memory == StreamMemory::kLocked) return true;
  const HostRun run = HostRuns(first->gate, 0).front();
  const std::uint64_t bytes = std::min(run.bytes, kStreamPieceBytes);
  return CopyRate(run.from, bytes) >= kAsQuick * CopyRate(ring_.host(), bytes);
}

// For every layer a table in which all its experts are there, and one for each group with that
// group's places alone. Slots go round through all layers, so that a layer's first copies need not
// wait for the last ones of the layer before.
void ExpertStream::BuildTables() {
  std::vector<cl::ExpertEntry> entries;
  std::size_t slot = 0;
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
    layer.first_slot = slot;
    for (std::size_t i = 0; i < layer.experts.size(); i += kStreamSlotExperts) {
      const auto first = static_cast<std::size_t>(std::ssize(entries));
      entries.resize(first + static_cast<std::size_t>(table_entries_));
      const std::size_t n = std::min<std::size_t>(kStreamSlotExperts, layer.experts.size() - i);
      for (std::size_t j = 0; j < n; ++j) {
        const auto e = static_cast<std::size_t>(layer.experts[i + j]);
        entries[first + e] = EntryInSlot(w.experts[e], slot, j);
      }
      slot = (slot + 1) % slots_.size();
    }
  }
  const std::size_t bytes = entries.size() * sizeof(cl::ExpertEntry);
  TANDEM_CHECK(bytes <= device_.ScratchBytes("stream tables"));
  device_.device.BlockingWrite(tables_, 0, entries.data(), bytes);
}

cl::ExpertEntry ExpertStream::EntryInSlot(const MlpWeights& w, std::size_t slot,
                                          std::size_t index) const {
  cl::ExpertEntry entry;
  entry.slab = 0;
  entry.F = static_cast<cl_int>(w.gate.rows());
  if (packed_) {
    const MatrixRange gate = Bf16Range(w.gate, index * expert_bf16_);
    const MatrixRange up = Bf16Range(w.up, gate.end);
    entry.gate = gate.data;
    entry.up = up.data;
    entry.down = up.end;
    return entry;
  }
  const std::size_t place = slot * kStreamSlotExperts + index;
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
  const Layer& l = layers_[static_cast<std::size_t>(layer)];
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  if (layer <= last_layer_ || last_layer_ < 0) counted_until_ = Now();  // another step
  last_layer_ = layer;
  const cl_mem slab = packed_ ? bf16_ : raw_;
  a.slabs = {&slab, 1};
  if (packed_) a.gate_up = a.down = DType::kBF16;
  a.sum = false;
  Used used = ReadTiles(a, w.experts.size());
  std::int64_t table = l.first_table;
  std::size_t next_slot = l.first_slot;
  for (std::size_t i = 0; i < l.experts.size(); i += kStreamSlotExperts) {
    table += table_entries_;
    const std::size_t slot = std::exchange(next_slot, (next_slot + 1) % slots_.size());
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
  const double now = Now();
  seconds_ += now - std::exchange(counted_until_, now);
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
  if (!in_place_) {
    for (const std::vector<HostRun>& piece : InPieces(runs, kStreamPieceBytes)) CopyPiece(piece);
    return;
  }
  for (HostRun copy : Joined(runs, kMostInPlace)) {
    while (copy.bytes > 0) {
      const std::uint64_t bytes = locked_.Together(copy.from, copy.bytes);
      CopyToRaw(NextPiece(), copy.from, bytes, copy.at);
      moved_bytes_ += bytes;
      copy = {copy.from + bytes, copy.bytes - bytes, copy.at + bytes};
    }
  }
}

std::size_t ExpertStream::NextPiece() {
  const std::size_t piece = std::exchange(next_piece_, (next_piece_ + 1) % pieces_.size());
  if (pieces_[piece].copied) device_.device.Await(pieces_[piece].copied.get());
  return piece;
}

void ExpertStream::CopyToRaw(std::size_t piece, const std::byte* from, std::uint64_t bytes,
                             std::uint64_t at) {
  cl_event event = nullptr;
  ClCheck(clEnqueueWriteBuffer(copies_.get(), raw_, CL_FALSE, at, bytes, from, 0, nullptr, &event),
          "clEnqueueWriteBuffer of a streamed expert", device_.device);
  pieces_[piece].copied.reset(event);
  ClCheck(clRetainEvent(event), "clRetainEvent");
  last_copy_.reset(event);
  ClCheck(clFlush(copies_.get()), "clFlush", device_.device);
}

// `runs`, whose destinations rise, lie less than a piece apart and leave only short gaps.
void ExpertStream::CopyPiece(const std::vector<HostRun>& runs) {
  const std::size_t piece = NextPiece();
  std::byte* const room = ring_.host() + piece * kStreamPieceBytes;
  const std::uint64_t first = runs.front().at;
  host_.pool.Run([&](const Worker& worker) {
    for (const HostRun& run : runs) CopyShare(room + (run.at - first), run.from, run.bytes, worker);
  });
  CopyToRaw(piece, room, runs.back().at + runs.back().bytes - first, first);
  for (const HostRun& run : runs) moved_bytes_ += run.bytes;
}

void ExpertStream::AfterCopies() { WaitInQueue(device_.device.queue(), last_copy_); }

void ExpertStream::Unpack(const std::vector<const MlpWeights*>& group, std::size_t slot) {
  for (std::size_t j = 0; j < group.size(); ++j) {
    if (group[j] == nullptr) continue;
    std::uint64_t from = (slot * kStreamSlotExperts + j) * expert_raw_;
    std::uint64_t to = j * expert_bf16_;
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
