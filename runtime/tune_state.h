#pragma once

#include <string>
#include <vector>

namespace tandem {

// What became of one candidate.
struct TuneTrial {
  std::string change;
  std::string key;   // PlacementKey
  double ratio = 0;  // seconds of the best so far over the candidate's: above 1 is a gain
  int pairs = 0;     // of measurements
  bool kept = false;
};

// A tuning that can go on later. Profiles are pinned ones, as YAML.
struct TuneState {
  std::string machine;  // fingerprints
  std::string model;
  std::string start;
  std::string best;
  std::vector<TuneTrial> trials;
};

// JSON, versioned; written under another name and renamed, so that an interruption leaves the old
// one. Reading throws CheckpointError (65) for a damaged or newer file, SystemError (66) if absent.
void WriteTuneState(const TuneState& state, const std::string& file);
TuneState ReadTuneState(const std::string& file);

}  // namespace tandem
