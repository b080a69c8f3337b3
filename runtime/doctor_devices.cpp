#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "cl_kernels/tunables.h"
#include "memory/tuned_shapes.h"
#include "placement/byte_size.h"
#include "placement/system_files.h"
#include "runtime/doctor.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// Device files that OpenCL drivers open.
std::vector<std::string> DeviceFiles(const std::string& root) {
  std::vector<std::string> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root + "/dev/dri", none)) {
    if (entry.path().filename().string().starts_with("renderD")) files.push_back(entry.path());
  }
  for (const auto& entry : fs::directory_iterator(root + "/dev", none)) {
    const std::string name = entry.path().filename().string();
    const bool nvidia = name.starts_with("nvidia") && !entry.is_directory(none);
    if (nvidia || name == "kfd") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

Finding CheckOpenCl(const Machine& machine, bool require_device) {
  Finding f{"OpenCL"};
  std::vector<std::string> names;
  for (const Device& device : machine.devices) {
    names.push_back(
        fmt::format("{}: {} ({})", device.index, device.name, FormatBytes(device.memory_bytes)));
  }
  f.found = names.empty() ? "no device" : fmt::format("{}", fmt::join(names, "; "));
  if (!machine.device_problem.empty()) f.found += "; " + machine.device_problem;
  if (!names.empty() && machine.device_problem.empty()) return f;
  f.health = names.empty() && require_device ? Health::kFail : Health::kWarn;
  f.code = ExitCode::kUnavailable;
  f.expected = names.empty() ? "a device; without one everything runs on the CPU"
                             : "every installed driver answers";
  f.fix =
      "install the maker's OpenCL driver, or pocl-opencl-icd; clinfo -l and "
      "/etc/OpenCL/vendors/*.icd show what is there";
  return f;
}

Finding CheckDeviceFiles(const std::string& root, const MayOpen& may_open) {
  Finding f{"device files"};
  const std::vector<std::string> files = DeviceFiles(root);
  std::vector<std::string> closed;
  for (const std::string& file : files) {
    if (!may_open(file)) closed.push_back(file.substr(root.size()));
  }
  f.found = files.empty()
                ? "no GPU under /dev (none is there, or the container was given none)"
                : fmt::format("{} under /dev may be opened", files.size() - closed.size());
  if (closed.empty()) return f;
  f.health = Health::kWarn;
  f.found = fmt::format("no permission for {}", fmt::join(closed, ", "));
  f.expected = "read and write for this user";
  f.fix =
      "sudo usermod -aG render,video $USER, then log in again; docker run --device or --gpus all";
  return f;
}

Finding CheckPcie(const Device& device, const std::string& root) {
  Finding f{fmt::format("PCIe of device {}", device.index)};
  const std::string folder = root + "/sys/bus/pci/devices/" + Lower(device.pci_address) + "/";
  const auto width = ReadSystemNumber(folder + "current_link_width");
  const auto most = ReadSystemNumber(folder + "max_link_width");
  if (device.pci_address.empty() || !width || !most) {
    f.found = device.shares_cores ? "no PCI device" : "link width and speed are not visible here";
    return f;
  }
  const std::string speed = ReadSystemWord(folder + "current_link_speed").value_or("unknown speed");
  const std::string fastest = ReadSystemWord(folder + "max_link_speed").value_or(speed);
  f.found = fmt::format("{} lanes of {} at {}", *width, *most, speed);
  // Idle cards lower the speed, so that alone says nothing.
  if (speed != fastest) f.found += fmt::format(" ({} at most; idle cards go down)", fastest);
  if (*width >= *most || *width <= 0) return f;
  f.health = Health::kWarn;
  f.expected = fmt::format("{} lanes: transfers run at {:.0f} % of what the card can", *most,
                           100.0 * static_cast<double>(*width) / static_cast<double>(*most));
  f.fix = fmt::format("sudo lspci -vv -s {} | grep Lnk; seat the card in a slot with {} lanes",
                      device.pci_address, *most);
  return f;
}

Finding CheckShapes(const ClDeviceInfo& device) {
  Finding f{fmt::format("kernel shapes of device {}", device.index)};
  const TunedShapes shapes = cl::Checked(LoadShapes(ShapesFolder(), device), device);
  f.found = ToText(shapes);
  if (shapes.problem.empty()) return f;
  f.health = Health::kWarn;
  f.found = fmt::format("{}: {}", shapes.file.string(), shapes.problem);
  f.expected = "shapes for this device, driver and program; the table serves until then";
  f.fix =
      fmt::format("tandem tune kernels --device {0}, or tandem tune kernels --device {0} --reset",
                  device.index);
  return f;
}

}  // namespace tandem
