#include "runtime/tune_state.h"

#include <nlohmann/json.hpp>

#include "memory/error.h"
#include "memory/file.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 20;

}  // namespace

void WriteTuneState(const TuneState& state, const std::string& file) {
  Json trials = Json::array();
  for (const TuneTrial& t : state.trials) {
    trials.push_back({{"change", t.change},
                      {"key", t.key},
                      {"ratio", t.ratio},
                      {"pairs", t.pairs},
                      {"kept", t.kept}});
  }
  const Json json = {{"tandem_tune", kVersion}, {"machine", state.machine},
                     {"model", state.model},    {"start", state.start},
                     {"best", state.best},      {"trials", std::move(trials)}};
  AtomicFileWriter writer(file);
  writer.Write(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  writer.Commit();
}

TuneState ReadTuneState(const std::string& file) {
  const std::string text = ReadWholeFile(file, kMostBytes);
  try {
    const Json json = Json::parse(text);
    if (json.at("tandem_tune") != kVersion) {
      Throw<CheckpointError>("{}: made by another version of `tandem tune`; start afresh", file);
    }
    TuneState state{json.at("machine"), json.at("model"), json.at("start"), json.at("best"), {}};
    for (const Json& t : json.at("trials")) {
      state.trials.push_back(
          {t.at("change"), t.at("key"), t.at("ratio"), t.at("pairs"), t.at("kept")});
    }
    return state;
  } catch (const Json::exception& error) {
    Throw<CheckpointError>("{}: no state of `tandem tune`: {}", file, error.what());
  }
}

}  // namespace tandem
