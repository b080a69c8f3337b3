#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cl_kernels/tunables.h"
#include "memory/cl_device.h"
#include "memory/tuned_shapes.h"
#include "placement/byte_size.h"
#include "placement/machine.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/table.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

TunedShapes ShapesOf(const ClDeviceInfo& device) {
  return cl::Checked(LoadShapes(ShapesFolder(), device), device);
}

Json ShapesJson(const ClDeviceInfo& device) {
  const TunedShapes shapes = ShapesOf(device);
  return {{"changes", shapes.changes},
          {"measured", shapes.when},
          {"file", shapes.file.string()},
          {"problem", shapes.problem}};
}

Json ToJson(const ClDeviceInfo& d) {
  return {{"index", d.index},
          {"name", d.name},
          {"vendor", d.vendor},
          {"platform", d.platform},
          {"driver_version", d.driver_version},
          {"device_version", d.device_version},
          {"opencl_c_version", d.opencl_c_version},
          {"pci_address", d.pci_address},
          {"is_cpu", d.is_cpu},
          {"global_mem_bytes", d.global_mem_bytes},
          {"max_alloc_bytes", d.max_alloc_bytes},
          {"local_mem_bytes", d.local_mem_bytes},
          {"compute_units", d.compute_units},
          {"clock_mhz", d.clock_mhz},
          {"max_work_group_size", d.max_work_group_size},
          {"kernel_shapes", ShapesJson(d)}};
}

Json ToJson(const Node& node) {
  return {{"os_index", node.os_index},
          {"memory_bytes", node.memory_bytes},
          {"free_bytes", node.free_bytes},
          {"cores", node.cores}};
}

void PrintJson(const ClProbe& probe, const Machine& machine) {
  Json json = {{"opencl", {{"devices", Json::array()}, {"problem", probe.problem}}},
               {"cpu",
                {{"name", machine.cpu_name},
                 {"memory_limit_bytes", machine.memory_limit_bytes},
                 {"nodes", Json::array()}}}};
  for (const ClDeviceInfo& device : probe.devices) {
    json["opencl"]["devices"].push_back(ToJson(device));
  }
  for (const Node& node : machine.nodes) json["cpu"]["nodes"].push_back(ToJson(node));
  // Driver names are any bytes; JSON is UTF-8.
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void PrintOpenCl(const ClProbe& probe) {
  if (!probe.problem.empty()) fmt::print("OpenCL: {}\n", probe.problem);
  if (probe.devices.empty()) return;
  Table table({{"index", Table::Align::kRight},
               {"OpenCL device"},
               {"platform"},
               {"driver"},
               {"version"},
               {"memory", Table::Align::kRight},
               {"largest buffer", Table::Align::kRight},
               {"units", Table::Align::kRight}});
  for (const ClDeviceInfo& d : probe.devices) {
    table.Add({std::to_string(d.index), d.name, d.platform, d.driver_version, d.device_version,
               FormatBytes(d.global_mem_bytes), FormatBytes(d.max_alloc_bytes),
               std::to_string(d.compute_units)});
  }
  fmt::print("{}", table.ToText());
  for (const ClDeviceInfo& d : probe.devices) {
    const TunedShapes shapes = ShapesOf(d);
    fmt::print("kernel shapes of device {}: {}\n", d.index, ToText(shapes));
    if (!shapes.problem.empty()) fmt::print("  {}\n", WarningOf(shapes));
  }
}

void PrintCpu(const Machine& machine) {
  fmt::print("\nCPU: {}; this process may use {}\n", machine.cpu_name,
             FormatBytes(machine.memory_limit_bytes));
  Table table({{"NUMA node", Table::Align::kRight},
               {"memory", Table::Align::kRight},
               {"free", Table::Align::kRight},
               {"cores", Table::Align::kRight},
               {"PUs (one per core)"}});
  for (const Node& node : machine.nodes) {
    table.Add({std::to_string(node.os_index), FormatBytes(node.memory_bytes),
               FormatBytes(node.free_bytes), std::to_string(node.cores.size()),
               fmt::format("{}", fmt::join(node.cores, " "))});
  }
  fmt::print("{}", table.ToText());
}

void PrintDevices(bool json) {
  const ClProbe probe = ProbeClDevices();
  const Machine machine = ReadMachine(ProbeDevices::kNo);
  if (json) return PrintJson(probe, machine);
  PrintOpenCl(probe);
  PrintCpu(machine);
}

}  // namespace

void AddDevicesCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("devices", "what OpenCL and hwloc see on this machine");
  auto json = std::make_shared<bool>(false);
  AddOutputOption(*command, *json);
  command->callback([json, &chosen] { chosen = [json] { PrintDevices(*json); }; });
}

}  // namespace tandem
