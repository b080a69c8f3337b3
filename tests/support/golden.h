#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "placement/profile.h"
#include "runtime/engine.h"

namespace tandem::test {

// The reference outputs beside a tiny model (tests/golden/<name>/golden.safetensors).
struct Golden {
  std::vector<std::int32_t> prompt_ids;
  std::vector<float> logits;                         // [T, V]
  std::vector<std::vector<float>> hidden;            // [L + 1][T, D]
  std::map<int, std::vector<std::int32_t>> experts;  // by layer: [T, K]
  std::map<int, std::vector<float>> weights;
  std::vector<std::int32_t> greedy_ids;
  std::vector<float> greedy_margin;
};
Golden ReadGolden(const std::string& dir);

// The folder of a golden model, and of the embedded one.
std::string GoldenDir(const std::string& name);
std::string DemoDir();

// A named placement for tests: "none", "device", and several splits.
Profile Placement(const std::string& name);
std::vector<std::string> AllPlacements();
// Whether the placement wants an OpenCL device.
bool NeedsDevice(const std::string& placement);
bool HaveDevice();

// Opens, plans and loads a model.
Engine MakeEngine(const std::string& model_dir, const Profile& profile, Precision precision);

// Collects what a step shows, over several steps.
class Recorder : public StepObserver {
 public:
  void OnHidden(int index, std::span<const float> hidden) override;
  void OnRouter(int layer, std::span<const std::int32_t> ids,
                std::span<const float> weights) override;
  std::map<int, std::vector<float>> hidden;
  std::map<int, std::vector<std::int32_t>> experts;
  std::map<int, std::vector<float>> weights;
};

// Feeds ids to a new sequence in pieces of `chunk` rows and returns the logits of all rows.
std::vector<float> Prefill(Engine& engine, std::int32_t sequence,
                           const std::vector<std::int32_t>& ids, std::int64_t chunk,
                           StepObserver* observer = nullptr);

// Greedy tokens after a prefill whose last logits are given.
std::vector<std::int32_t> Greedy(Engine& engine, std::int32_t sequence,
                                 std::vector<float> last_logits, std::int64_t n);

// Rows of k ids, each sorted: the order between nearly equal scores is not defined.
std::vector<std::int32_t> SortedRows(std::vector<std::int32_t> ids, std::size_t k);

std::int32_t ArgMax(std::span<const float> logits);

// The largest |a - b|, with its place, for messages.
struct Difference {
  float difference = 0;
  std::size_t index = 0;
  float a = 0;
  float b = 0;
};
Difference WorstDifference(std::span<const float> a, std::span<const float> b);
std::ostream& operator<<(std::ostream& out, const Difference& w);

}  // namespace tandem::test
