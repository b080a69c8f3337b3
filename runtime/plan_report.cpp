#include "runtime/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "memory/usage.h"
#include "placement/byte_size.h"
#include "placement/cost.h"
#include "runtime/table.h"

namespace tandem {
namespace {

// The plan's items in the groups that an engine can tell apart.
struct PlannedBytes {
  double weights = 0;
  double kv = 0;
  double scratch = 0;
  double program = 0;
  double all() const { return weights + kv + scratch + program; }
};

PlannedBytes PlannedOn(const Plan& plan, Place place) {
  PlannedBytes planned;
  for (const PlanItem& item : plan.items) {
    if (item.place != place) continue;
    double& group = item.what == "KV cache"  ? planned.kv
                    : item.what == "scratch" ? planned.scratch
                    : item.what == "program" ? planned.program
                                             : planned.weights;
    group += static_cast<double>(item.bytes);
  }
  return planned;
}

void AddDeviceBytes(const Plan& plan, const EngineBytes& real, PlanReport& report) {
  for (std::size_t d = 0; d < plan.devices.size(); ++d) {
    const PlannedBytes planned = PlannedOn(plan, Place::Device(static_cast<int>(d)));
    // Several are called as in the plan's table.
    const std::string name = plan.devices.size() > 1 ? fmt::format("device{}", d) : "device";
    const auto add = [&](const std::string& what, double want, std::uint64_t got) {
      report.bytes.push_back({name + what, want, static_cast<double>(got)});
    };
    const DeviceBytes& got = real.devices[d];
    add(" weights", planned.weights, got.weights);
    if (planned.kv > 0 || d == 0) add(" KV cache", planned.kv, got.kv);
    add(" scratch", planned.scratch, got.scratch);
    add("", planned.all(), got.all());
  }
}

// The KV cache is mapped whole and takes memory as it fills: what is resident can be less than what
// is planned by what no token has used.
void AddHostBytes(const Plan& plan, const EngineBytes& real, std::uint64_t other,
                  PlanReport& report) {
  const PlannedBytes planned = PlannedOn(plan, Place::Host());
  const ResidentBytes resident = ReadResidentBytes();
  const std::uint64_t all =
      other > 0 ? resident.now - std::min(resident.now, other) : resident.peak;
  const auto add = [&](const char* what, double want, std::uint64_t got) {
    report.bytes.push_back({what, want, static_cast<double>(got)});
  };
  add("host weights", planned.weights, real.host_weights);
  add("host KV cache", planned.kv, real.host_kv);
  add("host scratch", planned.scratch, real.host_scratch);
  add("host program", planned.program, 0);
  add("host memory, resident", static_cast<double>(plan.HostMemoryBytes()), all);
}

Workload WorkloadOf(const WorkDone& work) {
  const auto whole = [](double value) { return std::max<std::int64_t>(1, std::llround(value)); };
  return {whole(work.sequences), whole(work.prompt_tokens), whole(work.answer_tokens)};
}

std::string Ratio(const PlanReport::Line& line) {
  return line.real > 0 ? fmt::format("{:.3f}", line.planned / line.real) : "-";
}

}  // namespace

WorkDone WorkOf(const Metrics& m) {
  WorkDone work;
  if (m.decode_steps > 0) {
    work.sequences = static_cast<double>(m.decode_rows) / static_cast<double>(m.decode_steps);
    work.answer_tokens = static_cast<double>(m.decode_steps);
    work.decode_tokens_per_s = static_cast<double>(m.decode_rows) / m.decode_s;
  }
  if (m.prefill_rows > 0) {
    work.prompt_tokens = static_cast<double>(m.prefill_rows) / work.sequences;
    work.prefill_tokens_per_s = static_cast<double>(m.prefill_rows) / m.prefill_s;
  }
  return work;
}

PlanReport MakePlanReport(const Session& session, const Engine& engine, const WorkDone& work) {
  PlanReport report;
  const Plan& plan = engine.plan();
  AddHostBytes(plan, engine.bytes(), work.other_bytes, report);
  AddDeviceBytes(plan, engine.bytes(), report);
  const CostModel cost(engine.config(), engine.model().tensors, session.machine,
                       session.statistics ? &*session.statistics : nullptr);
  const Workload workload = WorkloadOf(work);
  const Prediction p = cost.Predict(plan, workload);
  report.speed = {{"prefill", p.prefill_tokens_per_s, work.prefill_tokens_per_s},
                  {"decode", p.decode_tokens_per_s, work.decode_tokens_per_s}};
  report.workload = fmt::format("{} sequence(s) of {} prompt and {} answer tokens, rates {}",
                                workload.sequences, workload.prompt_tokens, workload.answer_tokens,
                                plan.prediction.rates.empty() ? p.rates : plan.prediction.rates);
  return report;
}

std::string ToText(const PlanReport& report) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"plan report"}, {"planned", kRight}, {"real", kRight}, {"planned / real", kRight}});
  for (const PlanReport::Line& line : report.bytes) {
    const auto bytes = [](double value) {
      return value > 0 ? FormatBytes(static_cast<std::uint64_t>(value)) : std::string("-");
    };
    table.Add({line.what, bytes(line.planned), bytes(line.real), Ratio(line)});
  }
  for (const PlanReport::Line& line : report.speed) {
    const auto speed = [](double value) {
      return value > 0 ? fmt::format("{:.2f} tokens/s", value) : std::string("-");
    };
    table.Add({line.what, speed(line.planned), speed(line.real), Ratio(line)});
  }
  return table.ToText() + "Speed is predicted for " + report.workload + ".\n";
}

nlohmann::ordered_json ToJson(const PlanReport& report) {
  nlohmann::ordered_json json;
  const auto lines = [](const std::vector<PlanReport::Line>& list) {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    for (const PlanReport::Line& line : list) {
      object[line.what] = {{"planned", line.planned}, {"real", nullptr}, {"ratio", nullptr}};
      if (line.real <= 0) continue;
      object[line.what]["real"] = line.real;
      object[line.what]["ratio"] = line.planned / line.real;
    }
    return object;
  };
  json["bytes"] = lines(report.bytes);
  json["tokens_per_s"] = lines(report.speed);
  json["predicted_for"] = report.workload;
  return json;
}

void PrintPlanReport(const SessionOptions& options, const Session& session, const Engine& engine) {
  if (!options.plan_report) return;
  fmt::print(stderr, "{}", ToText(MakePlanReport(session, engine, WorkOf(engine.metrics()))));
}

}  // namespace tandem
