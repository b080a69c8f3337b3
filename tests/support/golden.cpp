#include "tests/support/golden.h"

#include <algorithm>
#include <cmath>
#include <ostream>

#include "memory/cl_device.h"
#include "model/open_model.h"
#include "model/safetensors.h"
#include "placement/planner.h"
#include "runtime/abilities.h"

namespace tandem::test {

Golden ReadGolden(const std::string& dir) {
  const SafetensorsFile file(dir + "/golden.safetensors");
  Golden g;
  g.prompt_ids = file.Ints("prompt_ids");
  g.logits = file.Floats("logits");
  g.greedy_ids = file.Ints("greedy_ids");
  g.greedy_margin = file.Floats("greedy_margin");
  for (int i = 0; file.header().Find("hidden." + std::to_string(i)) != nullptr; ++i) {
    g.hidden.push_back(file.Floats("hidden." + std::to_string(i)));
  }
  for (int i = 0; i < static_cast<int>(g.hidden.size()); ++i) {
    const std::string name = "router." + std::to_string(i);
    if (file.header().Find(name + ".experts") == nullptr) continue;
    g.experts[i] = file.Ints(name + ".experts");
    g.weights[i] = file.Floats(name + ".weights");
  }
  return g;
}

std::string GoldenDir(const std::string& name) {
  return std::string(TANDEM_SOURCE_DIR) + "/tests/golden/" + name;
}
std::string DemoDir() { return std::string(TANDEM_SOURCE_DIR) + "/model/demo"; }

std::vector<std::string> AllPlacements() {
  return {"none",           "device",      "half",          "experts_only",
          "attention_only", "late_layers", "router_on_host"};
}

Profile Placement(const std::string& name) {
  Profile p;
  p.context = 512;
  p.max_sequences = 4;
  p.chunk = 256;
  p.threads = 2;
  p.experts = Profile::Experts::kShare;
  if (name == "none") {
    p.device = "none";
    return p;
  }
  const auto set = [&](Side attention, Side ffn, Side router, Side head, double share) {
    p.attention = attention;
    p.dense = p.shared_experts = ffn;
    p.router = router;
    p.head = head;
    p.experts_share = share;
  };
  const Side dev = Side::kDevice;
  const Side host = Side::kHost;
  if (name == "device") set(dev, dev, dev, dev, 1);
  if (name == "half") set(dev, dev, dev, dev, 0.5);
  if (name == "experts_only") set(host, host, host, host, 0.5);
  if (name == "attention_only") set(dev, host, host, host, 0);
  if (name == "router_on_host") set(dev, dev, host, dev, 0.25);
  if (name == "late_layers") {
    set(dev, dev, dev, dev, 0.75);
    p.device_layers = {1, 2};
  }
  return p;
}

bool NeedsDevice(const std::string& placement) { return placement != "none"; }

bool HaveDevice() {
  static const bool have = !ProbeClDevices().devices.empty();
  return have;
}

Engine MakeEngine(const std::string& model_dir, const Profile& profile, Precision precision) {
  Model model = OpenModel(model_dir);
  const Machine machine =
      ReadMachine(profile.device == "none" ? ProbeDevices::kNo : ProbeDevices::kYes);
  Plan plan = MakePlan(model.config, model.tensors, machine, profile,
                       {.precision = precision, .statistics = nullptr, .abilities = kAbilities});
  return Engine(std::move(model), std::move(plan));
}

void Recorder::OnHidden(int index, std::span<const float> h) {
  hidden[index].insert(hidden[index].end(), h.begin(), h.end());
}

void Recorder::OnRouter(int layer, std::span<const std::int32_t> ids, std::span<const float> w) {
  experts[layer].insert(experts[layer].end(), ids.begin(), ids.end());
  weights[layer].insert(weights[layer].end(), w.begin(), w.end());
}

std::vector<float> Prefill(Engine& engine, std::int32_t sequence,
                           const std::vector<std::int32_t>& ids, std::int64_t chunk,
                           StepObserver* observer) {
  std::vector<float> logits;
  const LogitsSink sink = [&](std::span<const float> out) {
    logits.insert(logits.end(), out.begin(), out.end());
  };
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    std::vector<Row> rows;
    for (std::size_t i = begin; i < std::min(ids.size(), begin + chunk); ++i) {
      rows.push_back({sequence, static_cast<std::int32_t>(i), ids[i], true});
    }
    engine.Step(rows, observer, &sink);
  }
  return logits;
}

std::vector<std::int32_t> SortedRows(std::vector<std::int32_t> ids, std::size_t k) {
  for (auto row = ids.begin(); row != ids.end(); row += static_cast<std::ptrdiff_t>(k)) {
    std::sort(row, row + static_cast<std::ptrdiff_t>(k));
  }
  return ids;
}

std::int32_t ArgMax(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<std::int32_t> Greedy(Engine& engine, std::int32_t sequence,
                                 std::vector<float> last_logits, std::int64_t n) {
  std::vector<std::int32_t> ids;
  while (true) {
    ids.push_back(ArgMax(last_logits));
    if (static_cast<std::int64_t>(ids.size()) == n) return ids;
    const Row row{sequence, static_cast<std::int32_t>(engine.Length(sequence)), ids.back(), true};
    const auto out = engine.Step({&row, 1});
    last_logits.assign(out.begin(), out.end());
  }
}

Difference WorstDifference(std::span<const float> a, std::span<const float> b) {
  Difference worst;
  if (a.size() != b.size())
    return {INFINITY, 0, static_cast<float>(a.size()), static_cast<float>(b.size())};
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float d = std::fabs(a[i] - b[i]);
    if (!(d <= worst.difference)) worst = {d, i, a[i], b[i]};
  }
  return worst;
}

std::ostream& operator<<(std::ostream& out, const Difference& w) {
  return out << "worst difference " << w.difference << " at " << w.index << ": " << w.a << " and "
             << w.b;
}

}  // namespace tandem::test
