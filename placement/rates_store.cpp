#include "placement/rates_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "memory/error.h"
#include "memory/file.h"
#include "placement/hash.h"
#include "placement/rates_json.h"
#include "placement/yaml_fields.h"
#include "placement/yaml_tree.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kFormat = 2;  // raise it when rates.h or a method of measuring changes

fs::path HostFile(const fs::path& folder, const Machine& machine) {
  return folder / fmt::format("host-{}.json", HostFingerprint(machine));
}

fs::path DeviceFile(const fs::path& folder, const Machine& machine, const Device& device) {
  return folder / fmt::format("device-{}.json", DeviceFingerprint(machine, device));
}

// `,\n  "checksum": "0123456789abcdef"\n}\n`
std::string Tail(std::string_view before) {
  return fmt::format(",\n  \"checksum\": \"{}\"\n}}\n", HashText(before));
}

bool HasRightChecksum(std::string_view text) {
  const std::size_t tail = Tail("").size();
  return text.size() > tail && text.ends_with(Tail(text.substr(0, text.size() - tail)));
}

// A file's contents, once it is known to be whole and ours.
struct StoredPart {
  std::string when;
  YamlValue tree;  // keeps what `rates` points to
  const YamlValue* rates = nullptr;
};

StoredPart ParsePart(const std::string& text, const std::string& fingerprint,
                     const std::string& file) {
  if (!HasRightChecksum(text)) Throw<ConfigError>("{}: damaged: the checksum is wrong", file);
  StoredPart part;
  part.tree = ParseYaml(text, file);
  const FieldMap map({part.tree, "", file},
                     {"format", "tandem", "fingerprint", "when", "rates", "checksum"});
  const std::int64_t format = map.At("format").Int(0, 1 << 20);
  if (format != kFormat) {
    Throw<ConfigError>("{}: format {}, this program reads {}", file, format, kFormat);
  }
  if (map.At("tandem").Text() != TANDEM_VERSION) {
    Throw<ConfigError>("{}: measured by tandem {}, this is {}", file, map.At("tandem").Text(),
                       TANDEM_VERSION);
  }
  if (map.At("fingerprint").Text() != fingerprint) {
    Throw<ConfigError>("{}: measured on another machine", file);
  }
  part.when = map.At("when").Text();
  part.rates = &map.At("rates").value;
  return part;
}

// Calls read(part) if the file is there and good; else says why not.
bool LoadPart(const fs::path& file, const std::string& what, const std::string& fingerprint,
              std::vector<std::string>& why, const std::function<void(const StoredPart&)>& read) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    why.push_back(fmt::format("{}: not measured yet", what));
    return false;
  }
  try {
    const std::string text = ReadWholeFile(file, kMaxYamlBytes);
    read(ParsePart(text, fingerprint, file.filename().string()));
    return true;
  } catch (const Error& error) {
    why.push_back(fmt::format("{}: the stored measurement is not used: {}", what, error.what()));
    return false;
  }
}

std::string PartText(const std::string& fingerprint, const std::string& when, Json rates) {
  const Json json = {{"format", kFormat},
                     {"tandem", TANDEM_VERSION},
                     {"fingerprint", fingerprint},
                     {"when", when},
                     {"rates", std::move(rates)}};
  return WithChecksum(ToText(json));
}

void WritePart(const fs::path& file, const std::string& text) {
  AtomicFileWriter writer(file);
  writer.Write(text);
  writer.Commit();
}

const DeviceRates* Find(const std::vector<DeviceRates>& rates, int index) {
  const auto found = std::ranges::find(rates, index, &DeviceRates::index);
  return found == rates.end() ? nullptr : &*found;
}

void StoreHost(const fs::path& folder, const Machine& machine) {
  const std::string fingerprint = HostFingerprint(machine);
  const std::string text = PartText(fingerprint, machine.rates.when, ToJson(machine.rates.host));
  // What could not be read back must not replace what can.
  const StoredPart part = ParsePart(text, fingerprint, "rates of the CPU");
  ReadHostRates(*part.rates, "rates", "rates of the CPU");
  WritePart(HostFile(folder, machine), text);
}

void StoreDevice(const fs::path& folder, const Machine& machine, const Device& device,
                 const DeviceRates& rates) {
  const std::string fingerprint = DeviceFingerprint(machine, device);
  const std::string text = PartText(fingerprint, machine.rates.when, ToJson(rates));
  const std::string name = fmt::format("rates of device {}", device.index);
  const StoredPart part = ParsePart(text, fingerprint, name);
  ReadDeviceRates(*part.rates, "rates", name);
  WritePart(DeviceFile(folder, machine, device), text);
}

DeviceRates LoadDevice(const fs::path& folder, const Machine& machine, const Device& device,
                       std::vector<std::string>& why, RatesOrigin& origin) {
  DeviceRates rates;
  const bool found = LoadPart(
      DeviceFile(folder, machine, device), fmt::format("device {}", device.index),
      DeviceFingerprint(machine, device), why, [&](const StoredPart& part) {
        rates = ReadDeviceRates(*part.rates, "rates", fmt::format("device {}", device.index));
      });
  if (!found) {
    origin = RatesOrigin::kAssumed;
    rates = AssumeDeviceRates(machine, device);
  }
  rates.index = device.index;  // the list may have changed since
  return rates;
}

}  // namespace

fs::path RatesFolder() { return CacheFolder("rates"); }

std::optional<Rates> LoadRates(const fs::path& folder, const Machine& machine,
                               std::vector<std::string>& why) {
  if (folder.empty()) {
    why.push_back("no cache folder: neither XDG_CACHE_HOME nor HOME is set");
    return std::nullopt;
  }
  Rates rates;
  rates.origin = RatesOrigin::kMeasured;
  const auto read_host = [&](const StoredPart& part) {
    rates.when = part.when;
    rates.host = ReadHostRates(*part.rates, "rates", "CPU");
    Machine host = machine;
    host.devices.clear();
    const std::string mismatch = Mismatch(rates, host);
    if (!mismatch.empty()) throw ConfigError(mismatch);
  };
  const bool has_host =
      LoadPart(HostFile(folder, machine), "CPU", HostFingerprint(machine), why, read_host);
  for (const Device& device : machine.devices) {
    rates.devices.push_back(LoadDevice(folder, machine, device, why, rates.origin));
  }
  return has_host ? std::optional(std::move(rates)) : std::nullopt;
}

std::string StoreRates(const fs::path& folder, const Machine& machine) {
  if (folder.empty()) return "no cache folder: neither XDG_CACHE_HOME nor HOME is set";
  TANDEM_CHECK(machine.rates.origin == RatesOrigin::kMeasured);
  try {
    fs::create_directories(folder);
    StoreHost(folder, machine);
    for (const Device& device : machine.devices) {
      const DeviceRates* rates = Find(machine.rates.devices, device.index);
      if (rates) StoreDevice(folder, machine, device, *rates);
    }
  } catch (const Error& error) {
    return error.what();
  } catch (const fs::filesystem_error& error) {
    return fmt::format("{}: {}", folder.string(), error.code().message());
  }
  return "";
}

std::string WithChecksum(std::string body) {
  TANDEM_CHECK(body.ends_with('}'));
  body.pop_back();
  while (body.ends_with('\n')) body.pop_back();
  return body + Tail(body);
}

}  // namespace tandem
