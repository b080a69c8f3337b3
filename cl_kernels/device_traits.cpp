#include "cl_kernels/device_traits.h"

#include <fmt/format.h>

namespace tandem::cl {
namespace {

// What the GPU shapes need: the partial sums of few_rows for 8 x 4, and 256 work-items.
constexpr std::uint64_t kGpuLocalBytes = 40'000;
constexpr std::uint64_t kGpuGroup = 256;

// From cl_nv_device_attribute_query, which Debian 12's headers do not all have.
constexpr cl_device_info kComputeMajorNv = 0x4000;
constexpr cl_device_info kComputeMinorNv = 0x4001;

bool TakesGpuShapes(const ClDeviceInfo& info) {
  return !info.is_cpu && info.local_mem_bytes >= kGpuLocalBytes &&
         info.max_work_group_size >= kGpuGroup;
}

int NvCompute(const ClDevice& device) {
  if (!MayTakePtx(device.info())) return 0;
  cl_uint major = 0;
  cl_uint minor = 0;
  const bool known =
      clGetDeviceInfo(device.id(), kComputeMajorNv, sizeof(major), &major, nullptr) == CL_SUCCESS &&
      clGetDeviceInfo(device.id(), kComputeMinorNv, sizeof(minor), &minor, nullptr) == CL_SUCCESS;
  return known ? static_cast<int>(10 * major + minor) : 0;
}

bool HasDenormals(const ClDevice& device) {
  cl_device_fp_config config = 0;
  ClCheck(
      clGetDeviceInfo(device.id(), CL_DEVICE_SINGLE_FP_CONFIG, sizeof(config), &config, nullptr),
      "clGetDeviceInfo(CL_DEVICE_SINGLE_FP_CONFIG)");
  return (config & CL_FP_DENORM) != 0;
}

}  // namespace

bool MayTakePtx(const ClDeviceInfo& info) {
  return info.extensions.find("cl_nv_device_attribute_query") != std::string::npos;
}

std::string DeviceTraits::Options() const {
  return fmt::format(
      "-cl-std=CL1.2 -DTEAM={} -DTEAMS={} -DWROWS={} -DMAX_ROWS={} -DGROUP={} -DDENORMALS={} "
      "-DNV_COMPUTE={} -DHAND_OVER_GROUP={}{}",
      team, teams, wide_rows, max_rows, group, denormals ? 1 : 0, nv_compute, hand_over_group,
      shared_beside_choice ? " -DROUTER_SHARED" : "");
}

DeviceTraits CpuTraits(std::int64_t compute_units) {
  DeviceTraits traits;
  // x86 takes a microcode trap for subnormal operands, so `denormals` stays off.
  traits.wide_min_groups = 2 * compute_units;
  return traits;
}

DeviceTraits GpuTraits(std::int64_t compute_units) {
  DeviceTraits traits;
  traits.team = 32;
  traits.teams = 8;
  traits.wide_rows = 2;  // with 4 the registers of two work-groups fill a compute unit
  traits.max_rows = 8;
  traits.group = 256;
  traits.hand_over_group = 256;
  traits.hand_over_words = 8192;
  traits.hand_over_take_words = 8192;
  traits.denormals = true;
  traits.attention_items = false;
  traits.few_rows_max = 32;
  traits.few_rows_fill = true;
  traits.wide_min_groups = 2 * compute_units;
  return traits;
}

DeviceTraits TableTraits(const ClDeviceInfo& info) {
  return TakesGpuShapes(info) ? GpuTraits(info.compute_units) : CpuTraits(info.compute_units);
}

DeviceTraits TraitsOf(const ClDevice& device) {
  const ClDeviceInfo& info = device.info();
  DeviceTraits traits = TableTraits(info);
  traits.denormals = traits.denormals && HasDenormals(device);
  traits.nv_compute = TakesGpuShapes(info) ? NvCompute(device) : 0;
  if (traits.nv_compute >= 70) traits.mla_one_row_keys = 128;
  traits.shared_beside_choice = traits.nv_compute >= 80;
  // PoCL keeps the machine code of its kernels on disk itself; asking it for binaries makes it
  // compile every kernel at once, in a slower general form.
  traits.cache_binaries = info.platform != "Portable Computing Language";
  return traits;
}

}  // namespace tandem::cl
