#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "memory/error.h"
#include "model/safetensors.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/ids.h"
#include "runtime/interrupt.h"
#include "runtime/plan_report.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Computes the logits of every position, to compare placements, formats or other programs. FILE of
--ids is a safetensors file with an int32 tensor `prompt_ids` [T], or a JSON list of ids. The output
is a safetensors file with `prompt_ids` and `logits` [T, V]; --dump adds `hidden.i` [T, D] (0: the
embedding, i: after layer i, the last one after the final norm), `router.i.experts` and
`router.i.weights` [T, K].
Examples:
  tandem logits --model DIR --ids golden.safetensors --out logits.safetensors
  tandem logits --model DIR --ids ids.json --out l.safetensors --dump --device none --chunk 1)";

struct LogitsFlags {
  SessionOptions session;
  std::string ids;
  std::string out;
  bool dump = false;
  bool quiet = false;
};

// Values of one tensor, gathered over the steps.
struct Gathered {
  std::vector<float> floats;
  std::vector<std::int32_t> ints;
};

class Dump final : public StepObserver {
 public:
  void OnHidden(int index, std::span<const float> hidden) override {
    Append(tensors_[fmt::format("hidden.{}", index)].floats, hidden);
  }
  void OnRouter(int layer, std::span<const std::int32_t> ids,
                std::span<const float> weights) override {
    Append(tensors_[fmt::format("router.{}.experts", layer)].ints, ids);
    Append(tensors_[fmt::format("router.{}.weights", layer)].floats, weights);
  }
  const std::map<std::string, Gathered>& tensors() const { return tensors_; }

 private:
  template <class T>
  static void Append(std::vector<T>& to, std::span<const T> values) {
    to.insert(to.end(), values.begin(), values.end());
  }
  std::map<std::string, Gathered> tensors_;
};

// [T, values / T]
SafetensorsTensor Tensor(const std::string& name, const Gathered& values, std::int64_t rows) {
  const bool ints = !values.ints.empty();
  const std::int64_t count = ints ? std::ssize(values.ints) : std::ssize(values.floats);
  return {.name = name,
          .dtype = ints ? DType::kI32 : DType::kF32,
          .shape = {rows, count / rows},
          .bytes = ints ? std::as_bytes(std::span(values.ints))
                        : std::as_bytes(std::span(values.floats))};
}

std::vector<float> ComputeLogits(Engine& engine, const std::vector<std::int32_t>& ids,
                                 StepObserver* observer) {
  const std::int32_t sequence = engine.NewSequence();
  std::vector<float> logits;
  logits.reserve(ids.size() * static_cast<std::size_t>(engine.config().vocab_size));
  const LogitsSink sink = [&](std::span<const float> got) {
    logits.insert(logits.end(), got.begin(), got.end());
  };
  const auto chunk = static_cast<std::size_t>(engine.plan().max_rows);
  for (std::size_t first = 0; first < ids.size(); first += chunk) {
    if (Interrupted()) ThrowInterrupted();
    std::vector<Row> rows;
    for (std::size_t i = first; i < std::min(first + chunk, ids.size()); ++i) {
      rows.push_back({sequence, static_cast<std::int32_t>(i), ids[i], true});
    }
    engine.Step(rows, observer, &sink);
  }
  return logits;
}

void CheckLength(const std::vector<std::int32_t>& ids, const LogitsFlags& flags,
                 const Session& session) {
  const std::int64_t context = ContextLimit(session);
  if (std::ssize(ids) > context) {
    Throw<UsageError>("{}: {} tokens, the context has room for {}: raise --ctx", flags.ids,
                      ids.size(), context);
  }
}

void Logits(const LogitsFlags& flags) {
  Session session = OpenSession(flags.session);
  const std::vector<std::int32_t> ids = ReadIds(flags.ids, session.model.config.vocab_size);
  CheckLength(ids, flags, session);

  const InterruptGuard guard;
  Engine engine = LoadEngine(session, flags.quiet);
  Dump dump;
  const Gathered logits{.floats = ComputeLogits(engine, ids, flags.dump ? &dump : nullptr),
                        .ints = {}};
  const std::int64_t rows = std::ssize(ids);
  std::vector<SafetensorsTensor> tensors = {Tensor("logits", logits, rows)};
  tensors.push_back({.name = "prompt_ids",
                     .dtype = DType::kI32,
                     .shape = {rows},
                     .bytes = std::as_bytes(std::span(ids))});
  for (const auto& [name, values] : dump.tensors()) tensors.push_back(Tensor(name, values, rows));
  WriteSafetensors(flags.out, tensors, {{"tandem", engine.Describe()}});
  if (!flags.quiet) {
    fmt::print(stderr, "tandem: logits [{}, {}] in {}; {}\n", rows, engine.config().vocab_size,
               flags.out, engine.Describe());
  }
  PrintPlanReport(flags.session, session, engine);
}

}  // namespace

void AddLogitsCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("logits", "write the logits of given token ids to a file");
  auto flags = std::make_shared<LogitsFlags>();
  flags->session.precision = Precision::kExact;
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  command->add_option("--ids", flags->ids, "token ids: safetensors or JSON")
      ->type_name("FILE")
      ->required();
  command->add_option("-o,--out", flags->out, "safetensors file to write")
      ->type_name("FILE")
      ->required();
  command->add_flag("--dump", flags->dump, "also hidden states and the router's choices");
  AddPlacementOptions(*command, flags->session);
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no note");
  command->footer(kExamples);
  command->callback([flags, &chosen] { chosen = [flags] { Logits(*flags); }; });
}

}  // namespace tandem
