#pragma once

#include <cstdint>
#include <vector>

#include "memory/cl_device.h"
#include "memory/host_buffer.h"
#include "runtime/weight_layout.h"

namespace tandem {

// A device of the plan, as far as placing needs to know it.
struct WeightDevice {
  const ClDevice* device = nullptr;  // non-owning
  std::uint64_t max_alloc_bytes = 0;
};

// What placing needs to know beside the matrices.
struct WeightContext {
  const RowCut& cut;
  std::vector<WeightDevice> devices;
  const WeightDevice& At(int device) const { return devices[static_cast<std::size_t>(device)]; }
};

// The matrices of one role of one layer: they move together, and own their memory.
class WeightUnit {
 public:
  explicit WeightUnit(std::vector<WantedMatrix> matrices) : matrices_(std::move(matrices)) {}

  // Frees what does not stay.
  void Release(Place place);
  // Frees what is on a device, as one is lost.
  void ForgetDevice();
  // Allocates and lists what is to be read, unless it is there already.
  void Fill(Place place, const WeightContext& context, std::vector<LoadTask>& tasks);

  std::uint64_t host_bytes() const;
  std::uint64_t device_bytes(int device) const;

 private:
  std::vector<WantedMatrix> matrices_;
  bool placed_ = false;
  Place place_;
  std::vector<HostBuffer> host_;  // one per node
  std::vector<ClBuffer> device_;
};

// The routed experts of one layer, in slots of equal size. Experts that stay where they are stay
// untouched on the host; on a device the slots of a layer lie in as few buffers as possible (one
// launch each), exactly as many as there are experts, so that a change of their number copies them.
class ExpertSlots {
 public:
  explicit ExpertSlots(std::vector<std::vector<WantedMatrix>> experts);

  // As WeightUnit, for places [experts]. All layers release before any fills.
  void Release(const std::vector<Place>& places, const WeightContext& context);
  void ForgetDevices();
  void Fill(const std::vector<Place>& places, const WeightContext& context,
            std::vector<LoadTask>& tasks);

  std::uint64_t host_bytes() const;
  std::uint64_t device_bytes(int device) const;

 private:
  static constexpr int kFree = -1;
  struct HostSlab {
    std::vector<HostBuffer> nodes;
    std::vector<int> owners;  // expert of each slot, or kFree
  };
  struct DeviceSlab {
    ClBuffer buffer;
    std::vector<int> owners;
  };
  struct Slot {
    int slab = -1;
    int index = 0;
  };

  void MeasureSlots(const WeightContext& context);
  void ReleaseHost(const std::vector<Place>& places);
  void FillHost(const std::vector<Place>& places, const WeightContext& context,
                std::vector<LoadTask>& tasks);
  void FillDevice(int device, const std::vector<Place>& places, const WeightContext& context,
                  std::vector<LoadTask>& tasks);
  // New slabs with `slots` slots on a device, and those experts that are on it in them.
  void ResizeDevice(int device, std::int64_t slots, const WeightContext& context);
  std::int64_t DeviceSlots(int device) const;
  void PutOnDevice(int expert, int device, Slot slot, std::vector<LoadTask>* tasks);
  void AddHostSlab(std::int64_t slots, const WeightContext& context);

  std::vector<std::vector<WantedMatrix>> experts_;
  std::vector<std::uint64_t> host_slot_bytes_;  // per node
  std::uint64_t device_slot_bytes_ = 0;
  std::vector<HostSlab> host_;
  std::vector<std::vector<DeviceSlab>> devices_;  // slabs of each
  std::vector<bool> placed_;                      // per expert
  std::vector<Place> places_;                     // of those that are placed
};

}  // namespace tandem
