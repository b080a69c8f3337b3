#pragma once

#include <string>

#include "placement/machine.h"

namespace tandem {

// A machine as YAML or JSON (JSON is YAML), to plan for one that is not this one: what
// `tandem topology --output json` writes is read back whole; a file written by hand may give the
// short form (cores, memory, read bandwidth and GFLOP/s per node; memory, bandwidth, GFLOP/s, PCIe
// bandwidth and launch cost per device), from which the tables of Rates are made.
// Throws ConfigError "file:line:col: ..." for anything that does not fit the schema in
// docs/machine_file.md, SystemError (66) if it is absent.
Machine ReadMachineFile(const std::string& file);
Machine ParseMachine(const std::string& yaml, const std::string& file);
// The whole form, which ParseMachine reads back unchanged.
std::string MachineJson(const Machine& machine);

}  // namespace tandem
