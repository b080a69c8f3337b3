#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "placement/machine.h"

namespace tandem {

// $XDG_CACHE_HOME/tandem/rates (or ~/.cache/tandem/rates); empty where neither variable is set.
std::filesystem::path RatesFolder();

// The stored rates of this fingerprint. A file that is absent, damaged, of another format or of
// another machine is no result, never an error and never trusted; `why` says which it was.
std::optional<Rates> LoadRates(const std::filesystem::path& folder, const Machine& machine,
                               std::string& why);

// Writes them (temporary file, fsync, rename). Returns why it could not, or nothing.
std::string StoreRates(const std::filesystem::path& folder, const Machine& machine);

}  // namespace tandem
