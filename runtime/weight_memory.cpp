#include "runtime/weight_memory.h"

#include <algorithm>

#include "memory/cl_touch.h"
#include "memory/error.h"

namespace tandem {
namespace {

template <class Buffers>
std::uint64_t Sum(const Buffers& buffers) {
  std::uint64_t bytes = 0;
  for (const auto& buffer : buffers) bytes += buffer.bytes();
  return bytes;
}

std::uint64_t SlotOf(const std::vector<int>& owners) {
  return static_cast<std::uint64_t>(std::ranges::find(owners, -1) - owners.begin());
}

std::vector<std::byte*> BasesOf(const std::vector<HostBuffer>& buffers,
                                const std::vector<std::uint64_t>& slot_bytes, std::size_t slot) {
  std::vector<std::byte*> bases;
  for (std::size_t node = 0; node < buffers.size(); ++node) {
    bases.push_back(buffers[node].data() + slot * slot_bytes[node]);
  }
  return bases;
}

}  // namespace

void WeightUnit::Release(Place place) {
  if (!placed_ || place_ == place) return;
  host_.clear();
  device_.clear();
  placed_ = false;
}

void WeightUnit::ForgetDevice() {
  if (placed_ && place_.on_device()) Release(Place());
}

void WeightUnit::Fill(Place place, const WeightContext& context, std::vector<LoadTask>& tasks) {
  if (placed_ || matrices_.empty()) return;
  if (place.on_device()) {
    std::vector<cl_mem> buffers;
    const auto& [device, max_bytes] = context.At(place.index);
    for (const std::uint64_t bytes :
         PackOnDevice(matrices_, place.index, max_bytes, 0, {}, nullptr)) {
      device_.push_back(
          AllocateTouched(*device, matrices_[0].tensor->name, bytes, CL_MEM_READ_ONLY));
      buffers.push_back(device_.back().get());
    }
    PackOnDevice(matrices_, place.index, max_bytes, 0, buffers, &tasks);
  } else {
    const std::vector<std::uint64_t> used = PackOnHost(matrices_, context.cut, {}, nullptr);
    for (std::size_t node = 0; node < used.size(); ++node) {
      host_.emplace_back(used[node], context.cut.os_index(node));
    }
    PackOnHost(matrices_, context.cut, BasesOf(host_, used, 0), &tasks);
  }
  place_ = place;
  placed_ = true;
}

std::uint64_t WeightUnit::host_bytes() const { return Sum(host_); }
std::uint64_t WeightUnit::device_bytes(int device) const {
  return place_ == Place::Device(device) ? Sum(device_) : 0;
}

ExpertSlots::ExpertSlots(std::vector<std::vector<WantedMatrix>> experts)
    : experts_(std::move(experts)), placed_(experts_.size()), places_(experts_.size()) {}

// A slot takes the largest expert; in every known model they are all equal.
void ExpertSlots::MeasureSlots(const WeightContext& context) {
  if (device_slot_bytes_ > 0) return;
  host_slot_bytes_.assign(context.cut.nodes(), 0);
  for (const std::vector<WantedMatrix>& expert : experts_) {
    const auto used = PackOnHost(expert, context.cut, {}, nullptr);
    for (std::size_t node = 0; node < used.size(); ++node) {
      host_slot_bytes_[node] = std::max(host_slot_bytes_[node], used[node]);
    }
    const auto device = PackOnDevice(expert, 0, UINT64_MAX, 0, {}, nullptr);
    device_slot_bytes_ = std::max(device_slot_bytes_, device[0]);
  }
}

void ExpertSlots::Release(const std::vector<Place>& places, const WeightContext& context) {
  ReleaseHost(places);
  for (std::size_t e = 0; e < experts_.size(); ++e) {
    if (!placed_[e] || !places_[e].on_device() || places_[e] == places[e]) continue;
    placed_[e] = false;
    for (DeviceSlab& slab : devices_[static_cast<std::size_t>(places_[e].index)]) {
      std::ranges::replace(slab.owners, static_cast<int>(e), kFree);
    }
  }
  for (int d = 0; d < static_cast<int>(devices_.size()); ++d) {
    const auto wanted = std::ranges::count(places, Place::Device(d));
    if (wanted < DeviceSlots(d)) ResizeDevice(d, wanted, context);
  }
}

void ExpertSlots::ForgetDevices() {
  devices_.clear();
  for (std::size_t e = 0; e < experts_.size(); ++e) {
    if (places_[e].on_device()) placed_[e] = false;
  }
}

void ExpertSlots::ReleaseHost(const std::vector<Place>& places) {
  for (HostSlab& slab : host_) {
    for (std::size_t slot = 0; slot < slab.owners.size(); ++slot) {
      const int e = slab.owners[slot];
      if (e == kFree || !places[e].on_device()) continue;
      slab.owners[slot] = kFree;
      placed_[e] = false;
      for (std::size_t node = 0; node < slab.nodes.size(); ++node) {
        slab.nodes[node].Discard(slot * host_slot_bytes_[node], host_slot_bytes_[node]);
      }
    }
  }
  std::erase_if(host_, [](const HostSlab& slab) {
    return std::ranges::all_of(slab.owners, [](int owner) { return owner == kFree; });
  });
}

void ExpertSlots::Fill(const std::vector<Place>& places, const WeightContext& context,
                       std::vector<LoadTask>& tasks) {
  MeasureSlots(context);
  FillHost(places, context, tasks);
  devices_.resize(context.devices.size());
  for (int d = 0; d < static_cast<int>(devices_.size()); ++d) FillDevice(d, places, context, tasks);
}

void ExpertSlots::AddHostSlab(std::int64_t slots, const WeightContext& context) {
  HostSlab slab;
  for (std::size_t node = 0; node < context.cut.nodes(); ++node) {
    slab.nodes.emplace_back(slots * host_slot_bytes_[node], context.cut.os_index(node));
  }
  slab.owners.assign(slots, kFree);
  host_.push_back(std::move(slab));
}

void ExpertSlots::FillHost(const std::vector<Place>& places, const WeightContext& context,
                           std::vector<LoadTask>& tasks) {
  std::vector<int> missing;
  for (std::size_t e = 0; e < experts_.size(); ++e) {
    if (!placed_[e] && !places[e].on_device()) missing.push_back(static_cast<int>(e));
  }
  std::size_t next = 0;
  const auto fill = [&](HostSlab& slab, bool reused) {
    for (std::size_t slot = 0; slot < slab.owners.size() && next < missing.size(); ++slot) {
      if (slab.owners[slot] != kFree) continue;
      const int e = missing[next++];
      for (std::size_t node = 0; reused && node < slab.nodes.size(); ++node) {
        slab.nodes[node].Reuse(host_slot_bytes_[node]);
      }
      PackOnHost(experts_[e], context.cut, BasesOf(slab.nodes, host_slot_bytes_, slot), &tasks);
      slab.owners[slot] = e;
      placed_[e] = true;
      places_[e] = Place::Host();
    }
  };
  for (HostSlab& slab : host_) fill(slab, /*reused=*/true);
  if (next == missing.size()) return;
  AddHostSlab(static_cast<std::int64_t>(missing.size() - next), context);
  fill(host_.back(), /*reused=*/false);
}

std::int64_t ExpertSlots::DeviceSlots(int device) const {
  std::int64_t slots = 0;
  if (device >= static_cast<int>(devices_.size())) return slots;
  for (const DeviceSlab& slab : devices_[static_cast<std::size_t>(device)])
    slots += std::ssize(slab.owners);
  return slots;
}

void ExpertSlots::PutOnDevice(int expert, int device, Slot slot, std::vector<LoadTask>* tasks) {
  DeviceSlab& slab = devices_[device][slot.slab];
  const cl_mem buffer = slab.buffer.get();
  PackOnDevice(experts_[expert], device, UINT64_MAX, slot.index * device_slot_bytes_, {&buffer, 1},
               tasks);
  slab.owners[slot.index] = expert;
  placed_[expert] = true;
  places_[expert] = Place::Device(device);
}

void ExpertSlots::ResizeDevice(int device, std::int64_t slots, const WeightContext& context) {
  std::vector<DeviceSlab>& slabs = devices_[device];
  std::vector<DeviceSlab> old = std::move(slabs);
  slabs.clear();
  if (slots == 0) return;  // the next plan may not have the device
  const WeightDevice& on = context.At(device);
  const auto most = static_cast<std::int64_t>(on.max_alloc_bytes / device_slot_bytes_);
  TANDEM_CHECK(most > 0);  // the planner refuses experts that need more than one buffer
  for (std::int64_t left = slots; left > 0; left -= std::min(left, most)) {
    DeviceSlab& slab = slabs.emplace_back();
    slab.owners.assign(std::min(left, most), kFree);
    slab.buffer = AllocateTouched(*on.device, "experts of " + experts_[0][0].tensor->name,
                                  slab.owners.size() * device_slot_bytes_, CL_MEM_READ_ONLY);
  }
  Slot to{0, 0};
  for (const DeviceSlab& from : old) {
    for (std::size_t i = 0; i < from.owners.size(); ++i) {
      if (from.owners[i] == kFree) continue;
      if (to.index == std::ssize(slabs[to.slab].owners)) to = {to.slab + 1, 0};
      on.device->Copy(from.buffer.get(), i * device_slot_bytes_, slabs[to.slab].buffer.get(),
                      to.index * device_slot_bytes_, device_slot_bytes_);
      PutOnDevice(from.owners[i], device, to, nullptr);
      ++to.index;
    }
  }
  if (!old.empty()) on.device->Finish();  // the copies, before their source is freed
}

void ExpertSlots::FillDevice(int device, const std::vector<Place>& places,
                             const WeightContext& context, std::vector<LoadTask>& tasks) {
  const auto wanted = std::ranges::count(places, Place::Device(device));
  if (wanted > DeviceSlots(device)) ResizeDevice(device, wanted, context);
  const std::vector<DeviceSlab>& slabs = devices_[device];
  Slot slot{0, 0};
  for (std::size_t e = 0; e < experts_.size(); ++e) {
    if (placed_[e] || places[e] != Place::Device(device)) continue;
    const auto find = [&] { return SlotOf(slabs[slot.slab].owners); };
    while (find() == slabs[slot.slab].owners.size()) ++slot.slab;
    slot.index = static_cast<int>(find());
    PutOnDevice(static_cast<int>(e), device, slot, &tasks);
  }
}

std::uint64_t ExpertSlots::host_bytes() const {
  std::uint64_t slot = 0;
  for (const std::uint64_t bytes : host_slot_bytes_) slot += bytes;
  std::uint64_t used = 0;
  for (const HostSlab& slab : host_) {
    used += slot * static_cast<std::uint64_t>(std::ranges::count_if(
                       slab.owners, [](int owner) { return owner != kFree; }));
  }
  return used;
}

std::uint64_t ExpertSlots::device_bytes(int device) const {
  return static_cast<std::uint64_t>(DeviceSlots(device)) * device_slot_bytes_;
}

}  // namespace tandem
