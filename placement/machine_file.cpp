#include "placement/machine_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "memory/error.h"
#include "memory/file.h"
#include "placement/rates_json.h"
#include "placement/simple_rates.h"
#include "placement/yaml_fields.h"
#include "placement/yaml_tree.h"

namespace tandem {
namespace {

constexpr std::size_t kMaxNodes = 256;
constexpr std::size_t kMaxDevices = 64;
constexpr std::size_t kMaxCaches = 256;
constexpr std::size_t kMaxCores = 4096;  // of a node
constexpr std::int64_t kMaxIndex = 1 << 20;
constexpr std::uint64_t kMaxMemory = std::uint64_t{1} << 50;  // sums of these do not overflow

std::uint64_t Memory(const YamlField& field) {
  const std::uint64_t bytes = field.Bytes();
  if (bytes > kMaxMemory) field.Expected("at most 1024 TiB");
  return bytes;
}

std::uint64_t SomeMemory(const YamlField& field) {
  if (Memory(field) == 0) field.Expected("more than 0 bytes");
  return Memory(field);
}

int Index(const YamlField& field) { return static_cast<int>(field.Int(0, kMaxIndex)); }
int IndexOrNone(const YamlField& field) { return static_cast<int>(field.Int(-1, kMaxIndex)); }
bool Bool(const YamlField& field) { return field.Bool(); }
std::string Text(const YamlField& field) { return field.Text(); }
std::uint64_t Whole(const YamlField& field) { return field.Uint64(); }

// Figures of the short form; a byte a second to far beyond any machine.
double Giga(const YamlField& field) { return 1e9 * field.Number(1e-3, 1e9); }
double Microseconds(const YamlField& field) { return 1e-6 * field.Number(1e-3, 1e6); }

// A list names the PUs; a number leaves it to us to number them.
std::vector<int> ReadCores(const YamlField& field, int& next_core) {
  std::vector<int> cores;
  if (!field.IsList()) {
    const std::int64_t count = field.Int(0, kMaxCores);
    for (std::int64_t i = 0; i < count; ++i) cores.push_back(next_core++);
    return cores;
  }
  for (const YamlField& core : field.List(kMaxCores)) cores.push_back(Index(core));
  return cores;
}

Node ReadNode(const FieldMap& map, int index, int& next_core) {
  Node node;
  node.os_index = node.package = index;
  map.Set(node.os_index, "os_index", Index);
  map.Set(node.package, "package", Index);
  map.Set(node.threads_per_core, "threads_per_core",
          [](const YamlField& f) { return f.Int(1, 64); });
  node.cores = ReadCores(map.At("cores"), next_core);
  node.free_bytes = node.memory_bytes = SomeMemory(map.At("memory"));
  map.Set(node.free_bytes, "free", Memory);
  map.Set(node.free_huge_page_bytes, "free_huge_pages", Memory);
  return node;
}

// `count` equal nodes may stand in one element; then they are numbered and their cores are too.
void ReadNodes(const YamlField& field, Machine& machine) {
  int next_core = 0;
  for (const YamlField& element : field.List(kMaxNodes)) {
    const FieldMap map(element, {"count", "os_index", "package", "memory", "free",
                                 "free_huge_pages", "threads_per_core", "cores", "read_gb_per_s",
                                 "thread_read_gb_per_s", "gflops_per_core"});
    std::int64_t count = 1;
    map.Set(count, "count", [](const YamlField& f) { return f.Int(1, kMaxNodes); });
    if (count > 1 && (map.Has("os_index") || map.At("cores").IsList())) {
      element.Fail("'count' goes with a number of 'cores' and without 'os_index'");
    }
    for (std::int64_t i = 0; i < count && machine.nodes.size() < kMaxNodes; ++i) {
      machine.nodes.push_back(ReadNode(map, static_cast<int>(machine.nodes.size()), next_core));
    }
  }
}

void CheckNodes(const YamlField& field, const std::vector<Node>& nodes) {
  std::set<int> cores;
  int last = -1;
  for (const Node& node : nodes) {
    if (node.os_index <= last) {
      field.Fail(
          fmt::format("node {} after node {}: expected ascending 'os_index'", node.os_index, last));
    }
    last = node.os_index;
    for (const int core : node.cores) {
      if (!cores.insert(core).second) field.Fail(fmt::format("core {} is there twice", core));
    }
  }
  if (cores.empty()) field.Fail("expected at least one core");
}

Cache ReadCache(const YamlField& field) {
  const FieldMap map(field, {"level", "size", "count", "cores"});
  Cache cache;
  cache.level = static_cast<int>(map.At("level").Int(1, 8));
  cache.bytes = SomeMemory(map.At("size"));
  cache.count = static_cast<int>(map.At("count").Int(1, kMaxIndex));
  cache.cores = static_cast<int>(map.At("cores").Int(1, kMaxIndex));
  return cache;
}

std::vector<std::vector<int>> ReadDistances(const YamlField& field, std::size_t nodes) {
  std::vector<std::vector<int>> distances;
  for (const YamlField& row : field.List(kMaxNodes)) {
    std::vector<int>& to = distances.emplace_back();
    for (const YamlField& cell : row.List(kMaxNodes)) {
      to.push_back(static_cast<int>(cell.Int(1, 1 << 20)));
    }
    if (to.size() != nodes) row.Expected(fmt::format("{} distances, one for each node", nodes));
  }
  if (!distances.empty() && distances.size() != nodes) {
    field.Expected(fmt::format("{} rows, one for each node", nodes));
  }
  return distances;
}

Device ReadDevice(const FieldMap& map, int index, const std::vector<Node>& nodes) {
  Device device;
  device.index = index;
  map.Set(device.index, "index", Index);
  if (device.index != index) {
    map.At("index").Expected(fmt::format("{}: devices are numbered as they are listed", index));
  }
  device.name = map.At("name").Text();
  map.Set(device.platform, "platform", Text);
  map.Set(device.driver_version, "driver", Text);
  map.Set(device.pci_address, "pci_address", Text);
  map.Set(device.shares_cores, "shares_cores", Bool);
  map.Set(device.numa_node, "numa_node", IndexOrNone);
  if (device.numa_node >= 0 &&
      std::ranges::find(nodes, device.numa_node, &Node::os_index) == nodes.end()) {
    map.At("numa_node").Expected("the 'os_index' of a node");
  }
  device.memory_bytes = SomeMemory(map.At("memory"));
  // What most GPU drivers give, and the least that OpenCL allows.
  device.max_alloc_bytes = device.memory_bytes / 4;
  map.Set(device.max_alloc_bytes, "max_alloc", SomeMemory);
  map.Set(device.compute_units, "compute_units", Index);
  return device;
}

void ReadDevices(const YamlField& field, Machine& machine) {
  for (const YamlField& element : field.List(kMaxDevices)) {
    const FieldMap map(
        element, {"index", "name", "platform", "driver", "pci_address", "numa_node", "shares_cores",
                  "memory", "max_alloc", "compute_units", "read_gb_per_s", "gflops",
                  "pcie_gb_per_s", "pageable_gb_per_s", "launch_us", "round_trip_us"});
    machine.devices.push_back(
        ReadDevice(map, static_cast<int>(machine.devices.size()), machine.nodes));
  }
}

Machine ReadParts(const FieldMap& map) {
  Machine machine;
  machine.cpu_name = "unknown CPU";
  map.Set(machine.cpu_name, "cpu", Text);
  ReadNodes(map.At("nodes"), machine);
  CheckNodes(map.At("nodes"), machine.nodes);
  map.Set(machine.memory_bytes, "memory", Memory);
  for (const Node& node : machine.nodes) machine.memory_limit_bytes += node.memory_bytes;
  map.Set(machine.memory_limit_bytes, "memory_limit", Memory);
  map.Set(machine.memlock_limit_bytes, "memlock_limit", Whole);
  map.Set(machine.cpu_quota, "cpu_quota", [](const YamlField& f) { return f.Number(0, 1e6); });
  if (map.Has("caches")) {
    for (const YamlField& cache : map.At("caches").List(kMaxCaches)) {
      machine.caches.push_back(ReadCache(cache));
    }
  }
  if (map.Has("distances")) {
    machine.distances = ReadDistances(map.At("distances"), machine.nodes.size());
  }
  if (map.Has("devices")) ReadDevices(map.At("devices"), machine);
  if (machine.devices.empty()) machine.device_problem = "the machine file has no devices";
  map.Set(machine.device_problem, "device_problem", Text);
  return machine;
}

// The whole form.
Rates ReadRates(const YamlField& field, const Machine& machine) {
  const FieldMap map(field, {"origin", "when", "host", "devices"});
  const std::string origin = map.At("origin").Text();
  Rates rates;
  if (origin == "measured") {
    rates.origin = RatesOrigin::kMeasured;
  } else if (origin == "file") {
    rates.origin = RatesOrigin::kFile;
  } else if (origin != "assumed") {
    map.At("origin").Expected("measured, file or assumed");
  }
  map.Set(rates.when, "when", Text);
  const YamlField host = map.At("host");
  rates.host = ReadHostRates(host.value, host.path, host.file);
  for (const YamlField& device : map.At("devices").List(kMaxDevices)) {
    rates.devices.push_back(ReadDeviceRates(device.value, device.path, device.file));
  }
  const std::string mismatch = Mismatch(rates, machine);
  if (!mismatch.empty()) field.Fail(mismatch);
  return rates;
}

// Puts a figure of the short form in the place of the assumed one; counts those that are there.
class FigureReader {
 public:
  // `whole_form`: the file has tables already, and figures beside them would contradict.
  explicit FigureReader(bool whole_form) : whole_form_(whole_form) {}
  void Set(const FieldMap& map, double& to, std::string_view key,
           double (*read)(const YamlField&)) {
    if (!map.Has(key)) return;
    if (whole_form_) map.At(key).Fail("stands beside 'rates': give one or the other");
    to = read(map.At(key));
    ++found_;
  }
  int found() const { return found_; }

 private:
  bool whole_form_;
  int found_ = 0;
};

void ReadNodeFigures(const YamlField& field, FigureReader& figures, SimpleHost& host) {
  std::size_t node = 0;
  for (const YamlField& element : field.List(kMaxNodes)) {
    const FieldMap map(element);
    std::int64_t count = 1;
    map.Set(count, "count", [](const YamlField& f) { return f.Int(1, kMaxNodes); });
    for (; count > 0 && node < host.nodes.size(); --count, ++node) {
      SimpleNode& simple = host.nodes[node];
      figures.Set(map, simple.read_bytes_per_s, "read_gb_per_s", Giga);
      figures.Set(map, simple.thread_read_bytes_per_s, "thread_read_gb_per_s", Giga);
      figures.Set(map, simple.flops_per_core, "gflops_per_core", Giga);
    }
  }
}

void ReadDeviceFigures(const FieldMap& map, FigureReader& figures, SimpleDevice& simple) {
  figures.Set(map, simple.read_bytes_per_s, "read_gb_per_s", Giga);
  figures.Set(map, simple.flops, "gflops", Giga);
  if (map.Has("pcie_gb_per_s")) {
    figures.Set(map, simple.pinned_bytes_per_s, "pcie_gb_per_s", Giga);
    simple.pageable_bytes_per_s = std::min(simple.pageable_bytes_per_s, simple.pinned_bytes_per_s);
  }
  figures.Set(map, simple.pageable_bytes_per_s, "pageable_gb_per_s", Giga);
  figures.Set(map, simple.launch_s, "launch_us", Microseconds);
  figures.Set(map, simple.round_trip_s, "round_trip_us", Microseconds);
}

// Rates from the figures that the file gives, and assumed ones where it gives none.
Rates ReadFigures(const FieldMap& map, const Machine& machine, FigureReader& figures) {
  Rates rates;
  SimpleHost host = AssumedHost(machine);
  ReadNodeFigures(map.At("nodes"), figures, host);
  figures.Set(map, host.between_bytes_per_s, "between_gb_per_s", Giga);
  rates.host = SimpleHostRates(machine.nodes, host);
  std::vector<YamlField> devices;
  if (map.Has("devices")) devices = map.At("devices").List(kMaxDevices);
  for (std::size_t i = 0; i < devices.size(); ++i) {
    SimpleDevice simple = AssumedDevice(machine.devices[i], machine);
    ReadDeviceFigures(FieldMap(devices[i]), figures, simple);
    rates.devices.push_back(SimpleDeviceRates(simple));
  }
  rates.origin = figures.found() > 0 ? RatesOrigin::kFile : RatesOrigin::kAssumed;
  return rates;
}

}  // namespace

Machine ParseMachine(const std::string& yaml, const std::string& file) {
  const YamlValue tree = ParseYaml(yaml, file);
  const FieldMap map({tree, "", file}, {"format", "cpu", "memory", "memory_limit", "memlock_limit",
                                        "cpu_quota", "nodes", "between_gb_per_s", "caches",
                                        "distances", "devices", "device_problem", "rates"});
  if (map.Has("format")) map.At("format").Int(1, 1);
  Machine machine = ReadParts(map);
  FigureReader figures(map.Has("rates"));
  machine.rates = ReadFigures(map, machine, figures);
  if (map.Has("rates")) machine.rates = ReadRates(map.At("rates"), machine);
  return machine;
}

Machine ReadMachineFile(const std::string& file) {
  const File opened = File::Open(file);
  if (opened.size() > kMaxYamlBytes) {
    Throw<ConfigError>("{}: {} bytes, a machine file has at most {}", file, opened.size(),
                       kMaxYamlBytes);
  }
  return ParseMachine(ReadWholeFile(opened, kMaxYamlBytes), file);
}

}  // namespace tandem
