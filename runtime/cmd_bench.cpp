#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "runtime/bench.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/plan_report.h"
#include "runtime/read_bandwidth.h"
#include "runtime/summary.h"
#include "runtime/table.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGb = 1e9;
constexpr std::int64_t kOne = 1;     // a workload has no less
constexpr std::int64_t kBlock = 64;  // tokens of a KV block
constexpr std::uint64_t kReadBytes = std::uint64_t{4} << 30;
constexpr std::uint64_t kLeastReadBytes = std::uint64_t{64} << 20;

constexpr const char* kExamples =
    R"(Measures prefill and decode apart, each repetition beside a multi-threaded read of memory with the
same threads on the same cores: decode is bound by it. Medians; smallest and largest in brackets.
Examples:
  tandem bench --synthetic deepseek-v2-lite:layers=8:dtype=bf16 --device none
  tandem bench --model DIR --prompt-tokens 2048 --gen-tokens 128 --sequences 4 --output json)";

struct BenchFlags {
  SessionOptions session;
  BenchOptions bench;
  bool json = false;
  bool quiet = false;
};

// What is known before the engine takes the session, and what was measured.
struct Report {
  std::string model;
  std::string cpu;
  std::string where;
  std::size_t threads = 0;
  std::size_t read_bytes = 0;
  double load_s = 0;
  std::uint64_t loaded_bytes = 0;
  BenchResult result;
  double hand_over_s = 0;  // 0: no layer passes between the device and the CPU
  std::optional<DeferralEffect> deferral;
  std::int64_t cache_slots = 0;
  bool steps_ahead = false;
  Metrics last;                    // of the last repetition
  std::optional<PlanReport> plan;  // if asked for
};

// The workload is what is measured: its own flags say it.
void Give(SessionOptions& options, const char* path, const char* flag, std::int64_t value) {
  for (const GivenSetting& given : options.settings) {
    if (given.path == path) {
      Throw<UsageError>("{}: `tandem bench` has {} for it", given.source, flag);
    }
  }
  options.settings.push_back({path, std::to_string(value), flag});
}

SessionOptions WithRoom(const BenchFlags& flags) {
  const BenchOptions& b = flags.bench;
  const std::int64_t prompt = std::max(b.prompt_tokens, kOne);
  const std::int64_t answer = std::max(b.gen_tokens, kOne);
  SessionOptions options = flags.session;
  Give(options, "workload.sequences", "--sequences", b.sequences);
  Give(options, "workload.prompt_tokens", "--prompt-tokens", prompt);
  Give(options, "workload.answer_tokens", "--gen-tokens", answer);
  const std::int64_t blocks = (b.depth + prompt + answer + kBlock - 1) / kBlock;
  if (!options.context) options.context = b.sequences * blocks * kBlock;
  return options;
}

void CheckRoom(const BenchFlags& flags, const Session& session) {
  const std::int64_t timed = flags.bench.prompt_tokens + flags.bench.gen_tokens;
  const std::int64_t tokens = flags.bench.depth + timed;
  const std::int64_t needed = tokens * flags.bench.sequences;
  if (timed == 0) throw UsageError("--prompt-tokens and --gen-tokens are both 0");
  if (needed > session.profile.context) {
    Throw<UsageError>("{} sequences of {} tokens, the context has room for {}: raise --ctx",
                      flags.bench.sequences, tokens, session.profile.context);
  }
  if (tokens > session.model.config.max_position_embeddings) {
    Throw<UsageError>("{} tokens, the model has {} positions", tokens,
                      session.model.config.max_position_embeddings);
  }
}

// 4 GiB, or half of what the model leaves free.
std::uint64_t ReadBytesFor(const Session& session) {
  const std::uint64_t limit = session.machine.memory_limit_bytes;
  const std::uint64_t used = session.plan.host_bytes;
  const std::uint64_t free = limit > used ? limit - used : 0;
  return std::clamp(free / 2, kLeastReadBytes, kReadBytes);
}

// The memory of the bandwidth test belongs to no plan.
WorkDone WorkOf(const BenchOptions& options, const Report& report) {
  WorkDone work;
  work.sequences = static_cast<double>(options.sequences);
  work.prompt_tokens = static_cast<double>(options.prompt_tokens);
  work.answer_tokens = static_cast<double>(options.gen_tokens);
  const BenchResult& r = report.result;
  if (options.prompt_tokens > 0) work.prefill_tokens_per_s = Median(r.prefill_tokens_per_s);
  if (options.gen_tokens > 0) work.decode_tokens_per_s = Median(r.decode_tokens_per_s);
  work.other_bytes = report.read_bytes;
  return work;
}

Report Measure(const BenchFlags& flags) {
  Session session = OpenSession(WithRoom(flags));
  CheckRoom(flags, session);
  Report report;
  report.model = session.model.name;
  report.cpu = session.machine.cpu_name;
  const std::uint64_t read_bytes = ReadBytesFor(session);
  const InterruptGuard guard;
  Engine engine = LoadEngine(session, flags.quiet);
  report.load_s = engine.metrics().load_s;
  report.loaded_bytes = engine.metrics().loaded_bytes;
  report.where = engine.Describe();
  for (const PlanNode& node : engine.plan().nodes) report.threads += node.cores.size();
  ReadBandwidth read(engine.plan().nodes, read_bytes);
  report.read_bytes = read.bytes();
  report.result = Bench(
      engine, flags.bench, [&] { return read.Measure(); }, Interrupted);
  report.cache_slots = engine.plan().cache.slots;
  report.steps_ahead = engine.steps_ahead();
  report.last = engine.metrics();
  report.hand_over_s = engine.MeasureHandOver();
  if (engine.deferral() != nullptr) report.deferral = *engine.deferral();
  if (flags.session.plan_report) {
    report.plan = MakePlanReport(session, engine, WorkOf(flags.bench, report));
  }
  return report;
}

Json Spread(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  const auto [least, most] = std::ranges::minmax(values);
  return {{"median", Median(values)}, {"min", least}, {"max", most}, {"values", values}};
}

double HitRate(const Metrics& m) {
  if (m.cache_pairs == 0) return 0;
  return static_cast<double>(m.cache_hits) / static_cast<double>(m.cache_pairs);
}

Json CacheJson(const Report& report) {
  const Metrics& m = report.last;
  return {{"slots", report.cache_slots},        {"hit_rate", HitRate(m)},
          {"moved_bytes", m.cache_moved_bytes}, {"admissions", m.cache_admissions},
          {"evictions", m.cache_evictions},     {"off", m.cache_off}};
}

std::string CacheText(const Report& report) {
  const Metrics& m = report.last;
  return fmt::format(
      "Expert cache of {} experts, last repetition: {:.1f} % of the host's pairs served, {} moved, "
      "{} admissions, {} evictions.{}\n",
      report.cache_slots, 100 * HitRate(m), FormatBytes(m.cache_moved_bytes), m.cache_admissions,
      m.cache_evictions, m.cache_off.empty() ? "" : " It went off: " + m.cache_off + ".");
}

Json DeferralJson(const DeferralEffect& effect) {
  return {{"tokens", effect.tokens},
          {"same_greedy_tokens", effect.same},
          {"mean_kl_divergence", effect.divergence},
          {"largest_logit_difference", effect.largest}};
}

void PrintJson(const BenchFlags& flags, const Report& report) {
  const BenchResult& r = report.result;
  Json json = {{"model", report.model},
               {"cpu", report.cpu},
               {"where", report.where},
               {"version", TANDEM_VERSION},
               {"threads", report.threads},
               {"depth", flags.bench.depth},
               {"prompt_tokens", flags.bench.prompt_tokens},
               {"gen_tokens", flags.bench.gen_tokens},
               {"sequences", flags.bench.sequences},
               {"repetitions", flags.bench.repetitions},
               {"load_s", report.load_s},
               {"loaded_bytes", report.loaded_bytes},
               {"prefill_tokens_per_s", Spread(r.prefill_tokens_per_s)},
               {"decode_tokens_per_s", Spread(r.decode_tokens_per_s)},
               {"decode_host_weight_bytes_per_s", Spread(r.host_bytes_per_s)},
               {"decode_device_weight_bytes_per_s", Spread(r.device_bytes_per_s)},
               {"read_bytes", report.read_bytes},
               {"read_bytes_per_s", Spread(r.read_bytes_per_s)},
               {"host_weight_share_of_read", Spread(r.share_of_read)},
               {"decode_host_moe_ms", Spread(r.host_moe_ms)},
               {"decode_device_wait_ms", Spread(r.device_wait_ms)},
               {"prefill_streamed_bytes_per_s", Spread(r.stream_bytes_per_s)},
               {"prefill_streamed_in_place", r.stream_in_place},
               {"hand_over_s", report.hand_over_s},
               {"logits_hash", fmt::format("{:016x}", r.logits_hash)}};
  if (report.cache_slots > 0) json["expert_cache"] = CacheJson(report);
  if (report.steps_ahead) {
    json["steps_ahead"] = {{"decode_steps", report.last.decode_steps},
                           {"enqueued_ahead", report.last.steps_ahead}};
  }
  if (report.deferral) json["deferral"] = DeferralJson(*report.deferral);
  if (report.plan) json["plan_report"] = ToJson(*report.plan);
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void AddRow(Table& table, const std::string& what, const std::vector<double>& values, double unit,
            const std::string& unit_name) {
  if (values.empty()) return;
  const auto [least, most] = std::ranges::minmax(values);
  table.Add({what, fmt::format("{:.1f}", Median(values) / unit),
             fmt::format("({:.1f} to {:.1f})", least / unit, most / unit), unit_name});
}

void PrintText(const BenchFlags& flags, const Report& report) {
  const BenchResult& r = report.result;
  const BenchOptions& b = flags.bench;
  fmt::print("{}; {}\n{}, {} threads; {} sequence(s), {} repetitions\n\n", report.model,
             report.where, report.cpu, report.threads, b.sequences, b.repetitions);
  Table table({{"measured"}, {"median", Table::Align::kRight}, {"(min to max)"}, {"unit"}});
  const std::string after = b.depth > 0 ? fmt::format(" after {}", b.depth) : "";
  AddRow(table, fmt::format("prefill of {} tokens{}", b.prompt_tokens, after),
         r.prefill_tokens_per_s, 1, "tokens/s");
  AddRow(table, fmt::format("decode of {} tokens", b.gen_tokens), r.decode_tokens_per_s, 1,
         "tokens/s");
  AddRow(table, "weights read by the CPU in decode", r.host_bytes_per_s, kGb, "GB/s");
  if (!r.stream_bytes_per_s.empty()) {
    AddRow(table,
           r.stream_in_place ? "experts streamed in prefill, in place"
                             : "experts streamed in prefill, by a ring",
           r.stream_bytes_per_s, kGb, "GB/s");
  }
  if (std::ranges::any_of(r.device_bytes_per_s, [](double v) { return v > 0; })) {
    AddRow(table, "weights read by the device in decode", r.device_bytes_per_s, kGb, "GB/s");
    AddRow(table, "CPU part of the MoE layers, a step", r.host_moe_ms, 1, "ms");
    AddRow(table, "waiting for the device, a step", r.device_wait_ms, 1, "ms");
    if (report.hand_over_s > 0) {
      AddRow(table, "lost to the hand-over of a layer", {report.hand_over_s * 1e6}, 1, "us");
    }
  }
  AddRow(table, fmt::format("memory read, {} by all threads", FormatBytes(report.read_bytes)),
         r.read_bytes_per_s, kGb, "GB/s");
  AddRow(table, "share of that bandwidth in decode, each pair", r.share_of_read, 0.01, "%");
  fmt::print("{}", table.ToText());
  fmt::print("\n");
  if (report.cache_slots > 0) fmt::print("{}", CacheText(report));
  if (report.steps_ahead) fmt::print("Last repetition: {}.\n", StepsAheadText(report.last));
  if (report.deferral) fmt::print("With {}.\n", ToText(*report.deferral));
  fmt::print("Loaded {} in {:.2f} s. Logits hash {:016x}.\n", FormatBytes(report.loaded_bytes),
             report.load_s, r.logits_hash);
}

void RunBench(const BenchFlags& flags) {
  const Report report = Measure(flags);
  flags.json ? PrintJson(flags, report) : PrintText(flags, report);
  if (report.plan && !flags.json) fmt::print(stderr, "{}", ToText(*report.plan));
}

}  // namespace

void AddBenchCommand(CLI::App& app, Command& chosen) {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  constexpr std::int64_t kMostSequences = 1024;
  constexpr int kMostRepetitions = 1000;
  auto* command = app.add_subcommand("bench", "measure prefill and decode");
  auto flags = std::make_shared<BenchFlags>();
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  command
      ->add_option("--depth", flags->bench.depth,
                   "tokens in the cache of every sequence before anything is timed")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{0}, kMost))
      ->capture_default_str();
  command->add_option("--prompt-tokens", flags->bench.prompt_tokens, "tokens to prefill")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{0}, kMost))
      ->capture_default_str();
  command->add_option("--gen-tokens", flags->bench.gen_tokens, "tokens to decode")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{0}, kMost))
      ->capture_default_str();
  command->add_option("--sequences", flags->bench.sequences, "sequences decoded together")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{1}, kMostSequences))
      ->capture_default_str();
  command->add_option("--repetitions", flags->bench.repetitions, "how often all is measured")
      ->type_name("N")
      ->check(CLI::Range(1, kMostRepetitions))
      ->capture_default_str();
  AddPlacementOptions(*command, flags->session);
  AddOutputOption(*command, flags->json);
  command->add_flag("-q,--quiet", flags->quiet, "no progress");
  command->footer(kExamples);
  AddBenchKernelsCommand(*command, chosen);
  // Runs after the callback of `kernels`, too.
  command->callback([flags, command, &chosen] {
    if (command->get_subcommands().empty()) chosen = [flags] { RunBench(*flags); };
  });
}

}  // namespace tandem
