#include <fmt/format.h>

#include "memory/cl_probe.h"
#include "memory/error.h"

namespace tandem {
namespace {

constexpr cl_int kNoPlatform = -1001;  // CL_PLATFORM_NOT_FOUND_KHR

// Vendor queries for the PCI address, from cl_khr_pci_bus_info and cl_nv_device_attribute_query;
// the headers of Debian 12 do not have all of them.
constexpr cl_device_info kPciBusInfoKhr = 0x410F;
constexpr cl_device_info kPciBusNv = 0x4008;
constexpr cl_device_info kPciSlotNv = 0x4009;
constexpr cl_device_info kPciDomainNv = 0x400A;

template <class T>
T DeviceValue(cl_device_id device, cl_device_info what) {
  T value{};
  clGetDeviceInfo(device, what, sizeof(value), &value, nullptr);
  return value;
}

std::string PlatformString(cl_platform_id platform, cl_platform_info what) {
  std::size_t bytes = 0;
  if (clGetPlatformInfo(platform, what, 0, nullptr, &bytes) != CL_SUCCESS || bytes == 0) return {};
  std::string text(bytes, '\0');
  if (clGetPlatformInfo(platform, what, bytes, text.data(), nullptr) != CL_SUCCESS) return {};
  text.resize(text.find('\0') == std::string::npos ? bytes : text.find('\0'));
  return text;
}

struct PciAddress {
  cl_uint domain = 0, bus = 0, device = 0, function = 0;
};

std::string PciText(const PciAddress& a) {
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", a.domain, a.bus, a.device, a.function);
}

std::string PciAddressOf(cl_device_id device, const std::string& extensions) {
  PciAddress a;
  if (extensions.find("cl_khr_pci_bus_info") != std::string::npos &&
      clGetDeviceInfo(device, kPciBusInfoKhr, sizeof(a), &a, nullptr) == CL_SUCCESS) {
    return PciText(a);
  }
  if (extensions.find("cl_nv_device_attribute_query") == std::string::npos) return {};
  if (clGetDeviceInfo(device, kPciBusNv, sizeof(a.bus), &a.bus, nullptr) != CL_SUCCESS) return {};
  const auto slot = DeviceValue<cl_uint>(device, kPciSlotNv);
  a.domain = DeviceValue<cl_uint>(device, kPciDomainNv);
  a.device = slot >> 3;  // the slot id holds device and function, as in the PCI header
  a.function = slot & 7;
  return PciText(a);
}

ClDeviceInfo Describe(cl_platform_id platform, cl_device_id device) {
  ClDeviceInfo info;
  info.name = ClDeviceString(device, CL_DEVICE_NAME);
  info.vendor = ClDeviceString(device, CL_DEVICE_VENDOR);
  info.platform = PlatformString(platform, CL_PLATFORM_NAME);
  info.platform_version = PlatformString(platform, CL_PLATFORM_VERSION);
  info.driver_version = ClDeviceString(device, CL_DRIVER_VERSION);
  info.device_version = ClDeviceString(device, CL_DEVICE_VERSION);
  info.opencl_c_version = ClDeviceString(device, CL_DEVICE_OPENCL_C_VERSION);
  info.extensions = ClDeviceString(device, CL_DEVICE_EXTENSIONS);
  info.pci_address = PciAddressOf(device, info.extensions);
  const auto type = DeviceValue<cl_device_type>(device, CL_DEVICE_TYPE);
  info.is_cpu = (type & CL_DEVICE_TYPE_CPU) != 0;
  info.global_mem_bytes = DeviceValue<cl_ulong>(device, CL_DEVICE_GLOBAL_MEM_SIZE);
  info.max_alloc_bytes = DeviceValue<cl_ulong>(device, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  info.local_mem_bytes = DeviceValue<cl_ulong>(device, CL_DEVICE_LOCAL_MEM_SIZE);
  info.compute_units = DeviceValue<cl_uint>(device, CL_DEVICE_MAX_COMPUTE_UNITS);
  info.clock_mhz = DeviceValue<cl_uint>(device, CL_DEVICE_MAX_CLOCK_FREQUENCY);
  info.max_work_group_size = DeviceValue<std::size_t>(device, CL_DEVICE_MAX_WORK_GROUP_SIZE);
  return info;
}

void ListPlatform(cl_platform_id platform, int platform_index, ClProbe& probe) {
  const std::vector<cl_device_id> devices = ListClDevices(platform);
  for (std::size_t i = 0; i < devices.size(); ++i) {
    ClDeviceInfo info = Describe(platform, devices[i]);
    info.index = static_cast<int>(probe.devices.size());
    info.platform_index = platform_index;
    info.device_index = static_cast<int>(i);
    probe.devices.push_back(std::move(info));
  }
}

}  // namespace

std::vector<cl_platform_id> ListClPlatforms() {
  cl_uint count = 0;
  const cl_int error = clGetPlatformIDs(0, nullptr, &count);
  if (error == kNoPlatform || (error == CL_SUCCESS && count == 0)) return {};
  ClCheck(error, "clGetPlatformIDs");
  std::vector<cl_platform_id> platforms(count);
  ClCheck(clGetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs");
  return platforms;
}

std::vector<cl_device_id> ListClDevices(cl_platform_id platform) {
  cl_uint count = 0;
  const cl_int error = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count);
  if (error == CL_DEVICE_NOT_FOUND || (error == CL_SUCCESS && count == 0)) return {};
  ClCheck(error, "clGetDeviceIDs");
  std::vector<cl_device_id> devices(count);
  ClCheck(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, devices.data(), nullptr),
          "clGetDeviceIDs");
  return devices;
}

std::string ClDeviceString(cl_device_id device, cl_device_info what) {
  std::size_t bytes = 0;
  if (clGetDeviceInfo(device, what, 0, nullptr, &bytes) != CL_SUCCESS || bytes == 0) return {};
  std::string text(bytes, '\0');
  if (clGetDeviceInfo(device, what, bytes, text.data(), nullptr) != CL_SUCCESS) return {};
  text.resize(text.find('\0') == std::string::npos ? bytes : text.find('\0'));
  return text;
}

ClProbe ListAllClDevices() {
  ClProbe probe;
  const std::vector<cl_platform_id> platforms = ListClPlatforms();
  if (platforms.empty()) probe.problem = "no OpenCL platform is installed (no ICD was found)";
  for (std::size_t p = 0; p < platforms.size(); ++p) {
    try {
      ListPlatform(platforms[p], static_cast<int>(p), probe);
    } catch (const OpenClError& e) {  // the other platforms can still be used
      probe.problem += fmt::format("platform '{}': {}; ",
                                   PlatformString(platforms[p], CL_PLATFORM_NAME), e.what());
    }
  }
  if (probe.devices.empty() && probe.problem.empty()) {
    probe.problem =
        fmt::format("{} OpenCL platforms are installed, none has a device", platforms.size());
  }
  return probe;
}

}  // namespace tandem
