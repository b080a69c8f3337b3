// Plan truth: for a list of models, formats, contexts and splits, what the planner predicts beside
// what the engine then does. Bytes must never be below the real ones; speed is printed with its
// error, beside how fast the machine's memory was in the same minute relative to the stored rates.
//   plan_truth_bench [--set small|gpu] [--device INDEX] [--repetitions N] [--stored] [--only TEXT]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "memory/error.h"
#include "memory/usage.h"
#include "placement/byte_size.h"
#include "placement/cost.h"
#include "placement/machine_file.h"
#include "placement/planner.h"
#include "placement/rates_store.h"
#include "runtime/bench.h"
#include "runtime/measure.h"
#include "runtime/progress_bar.h"
#include "runtime/read_bandwidth.h"
#include "runtime/table.h"

namespace tandem {
namespace {

enum class Split { kNone, kHybrid, kQuarter, kHalf, kDevice };

struct Case {
  const char* spec;
  Split split;
  std::int64_t context;
  std::int64_t prompt;
  std::int64_t chunk;
  std::int64_t sequences;
};

// For a machine with 4 cores, 24 GiB and PoCL.
constexpr std::array kSmall{
    Case{"deepseek-v2-lite:layers=5:dtype=bf16", Split::kNone, 2048, 512, 512, 1},
    Case{"deepseek-v2-lite:layers=8:dtype=fp8", Split::kNone, 2048, 256, 256, 1},
    Case{"deepseek-v2-lite:layers=4:dtype=f16", Split::kNone, 8192, 1024, 256, 2},
    Case{"deepseek-v2-lite:layers=3:dtype=f32", Split::kNone, 1024, 128, 512, 1},
    Case{"deepseek-v2-lite:layers=4:dtype=bf16", Split::kNone, 8192, 4096, 512, 1},
    Case{"deepseek-moe-16b:layers=4:dtype=bf16", Split::kNone, 2048, 256, 256, 4},
    Case{"deepseek-v2:layers=2:dtype=fp8", Split::kNone, 2048, 256, 256, 1},
    Case{"deepseek-v3:layers=5:experts=32:dtype=fp8", Split::kNone, 2048, 256, 256, 1},
    Case{"deepseek-v3:layers=5:experts=32:dtype=fp8", Split::kNone, 4096, 64, 64, 8},
    Case{"deepseek-v2-lite:layers=4:dtype=bf16", Split::kHybrid, 2048, 256, 256, 1},
    Case{"deepseek-v2-lite:layers=4:dtype=fp8", Split::kHybrid, 2048, 128, 128, 1},
    Case{"deepseek-v2-lite:layers=4:dtype=bf16", Split::kHalf, 2048, 256, 256, 1},
    Case{"deepseek-v2-lite:layers=4:dtype=fp8", Split::kQuarter, 2048, 128, 128, 2},
    Case{"deepseek-v2-lite:layers=4:dtype=bf16", Split::kDevice, 2048, 128, 128, 1},
};

// For a GPU with 80 GB beside 16 cores.
constexpr std::array kGpu{
    Case{"deepseek-v2-lite:dtype=bf16", Split::kNone, 2048, 512, 512, 1},
    Case{"deepseek-v2-lite:dtype=bf16", Split::kHybrid, 2048, 512, 512, 1},
    Case{"deepseek-v2-lite:dtype=bf16", Split::kHalf, 2048, 512, 512, 1},
    Case{"deepseek-v2-lite:dtype=bf16", Split::kDevice, 8192, 512, 512, 1},
    Case{"deepseek-v2-lite:dtype=bf16", Split::kDevice, 8192, 4096, 512, 1},
    Case{"deepseek-v2-lite:dtype=fp8", Split::kDevice, 2048, 512, 256, 4},
    Case{"deepseek-v2-lite:dtype=fp8", Split::kQuarter, 2048, 256, 256, 1},
    Case{"deepseek-v2-lite:dtype=f16", Split::kHybrid, 8192, 2048, 512, 2},
    Case{"deepseek-v2-lite:layers=10:dtype=f32", Split::kHalf, 2048, 256, 256, 1},
    Case{"deepseek-v2:layers=6:dtype=fp8", Split::kHybrid, 2048, 512, 512, 1},
    Case{"deepseek-v2:layers=6:dtype=fp8", Split::kDevice, 2048, 512, 512, 1},
    Case{"deepseek-v3:layers=5:dtype=fp8", Split::kHybrid, 2048, 512, 512, 1},
    Case{"deepseek-v3:layers=5:dtype=fp8", Split::kHalf, 2048, 512, 512, 1},
    Case{"deepseek-moe-16b:dtype=bf16", Split::kDevice, 2048, 512, 512, 1},
};

struct Flags {
  std::string set = "small";
  std::string device = "0";
  std::string only;
  int repetitions = 5;
  std::int64_t gen_tokens = 32;
  bool stored = false;
  std::string dump;     // file for the machine with its rates
  std::string machine;  // file to read them from
};

const char* NameOf(Split split) {
  static constexpr std::array<const char*, 5> kNames{"none", "hybrid", "quarter", "half", "device"};
  return kNames[static_cast<std::size_t>(split)];
}

Profile ProfileFor(const Case& c, const std::string& device) {
  Profile p;
  p.context = c.context;
  p.max_sequences = c.sequences;
  p.chunk = c.chunk;
  p.prompt_tokens = c.prompt;
  p.answer_tokens = 32;
  p.device = c.split == Split::kNone ? "none" : device;
  if (c.split == Split::kNone) return p;
  p.attention = p.dense = p.shared_experts = p.router = p.head = Side::kDevice;
  p.experts = Profile::Experts::kShare;
  p.experts_share = c.split == Split::kDevice    ? 1
                    : c.split == Split::kHalf    ? 0.5
                    : c.split == Split::kQuarter ? 0.25
                                                 : 0;
  return p;
}

// Beside weights, KV cache and scratch there is the program itself, which a process that runs many
// models one after another cannot tell: tests/runtime/bytes_test.cpp checks that.
struct PlanBytes {
  std::uint64_t planned_host = 0, real_host = 0;
  std::uint64_t planned_device = 0, real_device = 0;
};

PlanBytes BytesOf(const Plan& plan) {
  PlanBytes bytes;
  bytes.planned_host = plan.host_bytes;
  for (const PlanItem& item : plan.items) {
    if (item.what == "program") bytes.planned_host -= item.bytes;
  }
  bytes.real_host = HostBufferBytes();
  if (plan.devices.empty()) return bytes;
  bytes.planned_device = plan.DeviceBytes(0);
  bytes.real_device = DeviceBufferBytes(plan.devices[0].index);
  return bytes;
}

struct Outcome {
  double predicted_prefill = 0, prefill = 0;
  double predicted_decode = 0, decode = 0;
  double read_now = 1;  // memory read beside the decode over the stored rate
  PlanBytes bytes;
};

double StoredRead(const Machine& machine) {
  double sum = 0;
  for (const NodeRates& node : machine.rates.host.nodes) sum += node.read.back().bytes_per_s;
  return sum;
}

// Where the time of one decode step goes, as predicted and as far as the engine counts it.
std::string Parts(const StepCost& step, const BenchResult& real) {
  const double real_ms = 1e3 / Median(real.decode_tokens_per_s);
  return fmt::format(
      "    decode step, ms: predicted {:.2f} (host {:.2f}, device {:.2f}, overlap {:.2f}, transfer "
      "{:.2f}, hand-over {:.2f}; {}); real {:.2f} (host MoE {:.2f}, device wait {:.2f})\n",
      1e3 * step.seconds, 1e3 * step.host, 1e3 * step.device, 1e3 * step.overlap,
      1e3 * step.transfer, 1e3 * step.hand_over, Name(step.limit), real_ms,
      Median(real.host_moe_ms), Median(real.device_wait_ms));
}

Outcome Run(const Case& c, const Machine& machine, const Flags& flags) {
  Model model = OpenSynthetic(c.spec);
  const Plan plan =
      MakePlan(model.config, model.tensors, machine, ProfileFor(c, flags.device), PlanOptions{});
  const CostModel cost(model.config, model.tensors, machine, nullptr);
  Workload workload{1, c.prompt, flags.gen_tokens};
  Outcome o;
  o.predicted_prefill = cost.Predict(plan, workload).prefill_tokens_per_s;
  workload.sequences = c.sequences;
  const Prediction prediction = cost.Predict(plan, workload);
  o.predicted_decode = prediction.decode_tokens_per_s;
  ProgressBar progress(ProgressBar::StyleOf(false), stderr, [] { return false; });
  Engine engine(std::move(model), plan, &progress);
  o.bytes = BytesOf(plan);
  std::vector<PlanNode> all;
  for (const Node& node : machine.nodes) all.push_back({node.os_index, node.cores, 0});
  ReadBandwidth read(all, std::size_t{512} << 20);
  const BenchOptions options{c.prompt, flags.gen_tokens, c.sequences, flags.repetitions};
  const BenchResult result = Bench(
      engine, options, [&] { return read.Measure(); }, [] { return false; });
  o.prefill = Median(result.prefill_tokens_per_s);
  o.decode = Median(result.decode_tokens_per_s);
  fmt::print(stderr, "{}", Parts(prediction.decode_step, result));
  o.read_now = Median(result.read_bytes_per_s) / StoredRead(machine);
  return o;
}

struct Errors {
  std::vector<double> prefill, decode;
};

std::string Percent(double predicted, double real) {
  return fmt::format("{:+.0f} %", 100 * (predicted / real - 1));
}

void AddRow(Table& table, const Case& c, const Outcome& o, Errors& errors) {
  errors.prefill.push_back(std::abs(o.predicted_prefill / o.prefill - 1));
  errors.decode.push_back(std::abs(o.predicted_decode / o.decode - 1));
  const auto ratio = [](std::uint64_t planned, std::uint64_t real) {
    return real == 0
               ? std::string("-")
               : fmt::format("{:.3f}", static_cast<double>(planned) / static_cast<double>(real));
  };
  table.Add({c.spec, NameOf(c.split), fmt::format("{}", c.context),
             fmt::format("{}/{}", c.prompt, c.chunk), fmt::format("{}", c.sequences),
             FormatBytes(o.bytes.planned_host), ratio(o.bytes.planned_host, o.bytes.real_host),
             FormatBytes(o.bytes.planned_device),
             ratio(o.bytes.planned_device, o.bytes.real_device),
             fmt::format("{:.1f}", o.predicted_prefill), fmt::format("{:.1f}", o.prefill),
             Percent(o.predicted_prefill, o.prefill), fmt::format("{:.2f}", o.predicted_decode),
             fmt::format("{:.2f}", o.decode), Percent(o.predicted_decode, o.decode),
             fmt::format("{:.2f}", o.read_now)});
}

void PrintErrors(const char* what, std::vector<double> errors) {
  if (errors.empty()) return;
  const double worst = *std::ranges::max_element(errors);
  fmt::print("{}: median error {:.1f} %, worst {:.1f} %\n", what, 100 * Median(errors),
             100 * worst);
}

void RunAll(const Flags& flags) {
  Machine machine = ReadMachine(ProbeDevices::kYes);
  if (!flags.machine.empty()) {
    machine.rates = ReadMachineFile(flags.machine).rates;
  } else if (!flags.stored) {
    ProgressBar progress(ProgressBar::StyleOf(false), stderr, [] { return false; });
    Measurement measured = MeasureRates(machine, {}, &progress);
    for (const std::string& problem : measured.problems) fmt::print("{}\n", problem);
    machine.rates = std::move(measured.rates);
  }
  if (!flags.dump.empty()) std::ofstream(flags.dump) << MachineJson(machine);
  using enum Table::Align;
  Table table({{"model"},
               {"split"},
               {"context", kRight},
               {"prompt/chunk", kRight},
               {"seqs", kRight},
               {"host, planned", kRight},
               {"/real", kRight},
               {"device, planned", kRight},
               {"/real", kRight},
               {"prefill t/s, predicted", kRight},
               {"real", kRight},
               {"error", kRight},
               {"decode t/s, predicted", kRight},
               {"real", kRight},
               {"error", kRight},
               {"memory now", kRight}});
  Errors errors;
  const auto run = [&](const auto& cases) {
    for (const Case& c : cases) {
      const std::string name = fmt::format("{} {}", c.spec, NameOf(c.split));
      if (name.find(flags.only) == name.npos) continue;
      fmt::print(stderr, "{} ...\n", name);
      try {
        AddRow(table, c, Run(c, machine, flags), errors);
      } catch (const Error& error) {
        fmt::print("{}: {}\n", name, error.what());
      }
    }
  };
  flags.set == "gpu" ? run(kGpu) : run(kSmall);
  fmt::print("{}\n{}", machine.cpu_name, table.ToText());
  PrintErrors("prefill", errors.prefill);
  PrintErrors("decode", errors.decode);
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  tandem::Flags flags;
  CLI::App app("Predicted bytes and speed beside the real ones.");
  app.add_option("--set", flags.set)->check(CLI::IsMember({"small", "gpu"}));
  app.add_option("--device", flags.device);
  app.add_option("--only", flags.only, "cases whose name holds this");
  app.add_option("--repetitions", flags.repetitions);
  app.add_option("--gen-tokens", flags.gen_tokens);
  app.add_option("--dump", flags.dump, "write the machine with its rates");
  app.add_option("--machine", flags.machine, "take the rates from this file");
  app.add_flag("--stored", flags.stored, "stored rates, not measured anew");
  CLI11_PARSE(app, argc, argv);
  try {
    tandem::RunAll(flags);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plan_truth_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
