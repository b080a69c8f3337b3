#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "placement/machine.h"

namespace tandem {

// Measured rates on disk: one file for the CPU side, host-<HostFingerprint>.json, and one for each
// device, device-<DeviceFingerprint>.json. So a command that does not look at devices finds the
// rates of the CPU, and a new driver makes only its own device stale. Each file is
//   {"format", "tandem", "fingerprint", "when", "rates", "checksum"}
// where the checksum stands last and is over every byte before it.

// $XDG_CACHE_HOME/tandem/rates (or ~/.cache/tandem/rates); empty where neither variable is set.
std::filesystem::path RatesFolder();

// The stored rates of this machine. A file that is absent, damaged, of another format, program
// version or machine is never an error and never trusted; `why` says which it was, one sentence for
// each part. Nothing where the CPU side has no usable file. A device without one has assumed
// rates, and the origin of the whole is then kAssumed.
std::optional<Rates> LoadRates(const std::filesystem::path& folder, const Machine& machine,
                               std::vector<std::string>& why);

// Writes machine.rates (temporary file, fsync, rename), devices that are in them only. Returns why
// it could not, or nothing. The rates must be measured: kMeasured, with `when`.
std::string StoreRates(const std::filesystem::path& folder, const Machine& machine);

// The text of a file with its checksum added: `body` is a JSON object, its closing brace included.
std::string WithChecksum(std::string body);

}  // namespace tandem
