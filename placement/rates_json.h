#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "placement/machine.h"
#include "placement/yaml_tree.h"

namespace tandem {

// Rates as JSON, for machine files and for stored measurements. Numbers are written so that they
// are read back unchanged.
nlohmann::ordered_json ToJson(const HostRates& rates);
nlohmann::ordered_json ToJson(const DeviceRates& rates);

// Indented text with lists of numbers on one line each.
std::string ToText(const nlohmann::ordered_json& json);

// Read from the tree that JSON or YAML gives. Throws ConfigError "file:line:col: ..." for unknown
// or missing keys, wrong types, numbers that are not finite and positive, and tables that IsValid
// refuses. `path` names the value in messages.
HostRates ReadHostRates(const YamlValue& value, const std::string& path, const std::string& file);
DeviceRates ReadDeviceRates(const YamlValue& value, const std::string& path,
                            const std::string& file);

// What does not go together with the machine, in words; empty if all does: a node, core count or
// device that it does not have or that has no rates.
std::string Mismatch(const Rates& rates, const Machine& machine);

}  // namespace tandem
