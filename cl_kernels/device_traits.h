#pragma once

#include <cstdint>
#include <string>

#include "memory/cl_device.h"

namespace tandem::cl {

// Every quirk of a vendor and every tunable of the kernels, in one place. The defaults are legal on
// any OpenCL 1.2 device and suit a CPU; TraitsOf chooses for a device. Tests force other shapes.
struct DeviceTraits {
  int team = 1;                 // work-items that share one dot product
  int teams = 1;                // teams in a work-group
  int wide_rows = 4;            // weight rows of a team
  int max_rows = 4;             // rows of x that a team takes at once: 4 or 8
  int group = 1;                // work-items of a work-group that reduces over one row of x
  bool denormals = false;       // f32 subnormals are exact and cost nothing
  bool attention_items = true;  // a work-item per row and head, else a work-group
  // 10 * major + minor of the compute capability where the device takes NVIDIA's inline PTX, else
  // 0: 80 has mma.sync and cp.async, 89 mma on e4m3, 90 wgmma (through the program's binary).
  int nv_compute = 0;
  // Products of many rows through wgmma, where nv_compute is 90 and the driver takes the patched
  // binary; else through mma.sync.
  bool wgmma_products = true;
  bool cache_binaries = true;  // CL_PROGRAM_BINARIES are worth keeping on disk
  // Most keys of a work-group of mla_one_row.cl; 0: one row's attention takes three launches. Its
  // work-groups must be able to count each other (arrive.cl).
  std::int64_t mla_one_row_keys = 0;
  // Up to so many rows the few-rows form runs, max_rows at a time; beyond, the tiles.
  std::int64_t few_rows_max = INT64_MAX;
  // Beyond, too, where the tiles would leave so many compute units idle that it is quicker.
  bool few_rows_fill = false;
  // Rows of x that linear_batch.cl takes, where nv_compute is at least 80 and bf16 may be used: on
  // an H100 fewer are quicker by few_rows.cl, and more by gemm.cl.
  std::int64_t batch_rows_min = 3;
  std::int64_t batch_rows_max = 32;
  // One row of x by one_row.cl, where nv_compute is at least 70.
  bool one_row = true;
  // And of formats of small codes by one_row_mma.cl, where it is at least 80.
  bool one_row_mma = true;
  // Where all experts are here, the shared one's gate and up in the router's launch
  // (router_shared.cl), where nv_compute is at least 80.
  bool shared_beside_choice = false;
  // With fewer work-groups than this a launch gives each team one weight row instead of wide_rows.
  std::int64_t wide_min_groups = 1;
  // Work-items and 4-byte words of a work-group that hands over to the host or back; up to
  // hand_over_take_words the waiting work-group adds the host's sum itself.
  int hand_over_group = 1;
  std::int64_t hand_over_words = 16384;
  std::int64_t hand_over_take_words = 32768;

  int group_size() const { return team * teams; }
  // The -D options that the .cl files take.
  std::string Options() const;
};

DeviceTraits CpuTraits(std::int64_t compute_units);
DeviceTraits GpuTraits(std::int64_t compute_units);
// The shapes of the table for a device that is not open, without its instructions.
DeviceTraits TableTraits(const ClDeviceInfo& info);
// Whether it may have an nv_compute: TraitsOf asks the open device.
bool MayTakePtx(const ClDeviceInfo& info);
DeviceTraits TraitsOf(const ClDevice& device);

}  // namespace tandem::cl
