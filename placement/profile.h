#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "memory/dtype.h"
#include "placement/hand_over_way.h"
#include "placement/step_ahead.h"
#include "placement/stream_memory.h"

namespace tandem {

// Where the user wants a role: the planner's choice, or a side.
enum class Side : std::uint8_t { kAuto, kHost, kDevice };

// What the model is mostly used for; gives context, sequences, prompt and answer lengths that are
// not said one by one.
enum class Use : std::uint8_t { kChat, kAgent, kLong, kBatch };

// Layers, experts or tensors that are wanted in a place: a constraint, never a hint. All given
// conditions must hold; a rule without any is an error.
struct Rule {
  std::string role;  // "attention", "dense", "shared_experts", "router", "head", "routed_experts"
  std::optional<std::pair<std::int64_t, std::int64_t>> layers;  // [first, last]
  std::vector<std::pair<int, int>> experts;                     // ranges [first, last]
  std::string tensors;  // a glob over tensor names: * and ?; a unit matches if one of its tensors
                        // does
  Side place = Side::kHost;
  std::string device;  // which, as Profile::device; empty: any of the plan's devices
  int line = 0;        // in the profile, for messages
};

// Memory that may be used of one device or node.
struct MemoryBudget {
  std::optional<std::uint64_t> bytes;    // at most this, or
  std::optional<std::uint64_t> reserve;  // all but this
};

// Where a setting's value came from: "profiles/x.yaml:3:5", "--ctx", "TANDEM_WORKLOAD_CONTEXT",
// "workload.for: chat (x.yaml:2:9)".
using Origins = std::map<std::string, std::string>;  // by path, "workload.context"

// What profiles/*.yaml, TANDEM_* variables and the command line say; the defaults are those of an
// empty profile. Schema in profiles/README.md and profiles/schema.json.
struct Profile {
  std::string file;  // for messages; empty for the built-in default
  // "auto", "none", "all", an index, a part of a device's name, or several of these with commas.
  std::string device = "auto";
  std::optional<std::uint64_t>
      device_memory_bytes;  // budget of each device; absent: what it has, less a reserve
  std::optional<std::uint64_t>
      host_memory_bytes;  // budget; absent: the machine's limit, less a reserve
  std::map<std::string, MemoryBudget> device_budgets;  // by index or name, before the above
  std::map<int, MemoryBudget> node_budgets;            // by OS index
  std::optional<int> threads;  // of the CPU team; absent: every core (shared out with a CPU device)
  std::map<int, int> node_threads;    // by OS index of the node; absent: an even share of `threads`
  std::optional<int> device_threads;  // of a device that shares the cores

  Use use = Use::kChat;
  std::int64_t context = 4096;  // tokens of KV cache over all sequences
  std::int64_t max_sequences = 4;
  std::int64_t prompt_tokens = 1024;  // of one request, for predictions and choices
  std::int64_t answer_tokens = 256;
  std::int64_t least_context = 1;     // plans that are offered instead never go below
  std::optional<std::int64_t> chunk;  // rows of one step at the most; absent: the planner's choice
  // What CPU kernels may round activations to in fast runs. bf16: always; f32: never, so that a
  // row's results do not depend on the rows beside it; absent: bf16 for many rows where that is
  // faster. The integer kernels of block formats quantise them in any case.
  std::optional<DType> activation_type;
  bool f8_on_devices = false;    // may devices round to e4m3 too, where weights are FP8
  std::optional<DType> kv_type;  // f32, bf16, f16, q8_0, f8; absent: by precision
  Side kv_place = Side::kAuto;   // attention runs where its cache is, so this places both

  Side attention = Side::kAuto;
  Side dense = Side::kAuto;
  Side shared_experts = Side::kAuto;
  Side router = Side::kAuto;
  Side head = Side::kAuto;

  // Routed experts on devices: auto fills what is left of the budget; or a share in [0, 1] of
  // the experts of every layer; or a number of bytes.
  enum class Experts : std::uint8_t { kAuto, kShare, kBytes } experts = Experts::kAuto;
  double experts_share = 0;
  std::uint64_t experts_bytes = 0;
  // Which experts go first: by the statistics of each layer, the same ids in every layer (those of
  // `order` first), or hot where there are statistics and else by order.
  enum class ExpertPolicy : std::uint8_t {
    kAuto,
    kHot,
    kOrder
  } expert_policy = ExpertPolicy::kAuto;
  std::vector<int> experts_order;  // hottest first; those not named follow by id
  std::string statistics;          // file of `tandem calibrate`; empty: none
  // Attention, dense parts, router and shared experts of these layers only are wanted on the device
  // ([first, last], absent: all).
  std::optional<std::pair<std::int64_t, std::int64_t>> device_layers;
  std::vector<Rule> rules;
  // Cold experts in prefill: on the CPU, streamed to the device, or what is faster.
  enum class PrefillExperts : std::uint8_t {
    kAuto,
    kHost,
    kStream
  } prefill_experts = PrefillExperts::kAuto;
  StreamMemory stream_memory = StreamMemory::kAuto;

  std::optional<std::uint64_t> expert_cache_bytes;  // on the first device; absent: no cache

  HandOverWay hand_over = HandOverWay::kAuto;
  bool deferral = false;  // placement/deferral.h; changes results
  StepAheadWish step_ahead = StepAheadWish::kAuto;

  // Of a profile that `tandem tune` wrote: what it was measured with. Empty: for any.
  std::string machine_fingerprint;
  std::string model_fingerprint;
  Origins origins;  // of the settings that are not defaults
};

// Reads a profile. Throws ConfigError "file:line:col: ..." for syntax errors, unknown keys (with
// the nearest known one), wrong types, impossible values and aliases; SystemError (66) if it is
// absent.
Profile ReadProfile(const std::string& file);
// The same from text, for tests.
Profile ParseProfile(const std::string& yaml, const std::string& file);

// A setting that a flag or a variable gives.
struct GivenSetting {
  std::string path;    // "workload.context", in the table of settings.h
  std::string text;    // a word, or YAML where it starts with [ or {
  std::string source;  // "--ctx", "TANDEM_WORKLOAD_CONTEXT": in messages and as origin
};
// The profile of that name (a file, or a shipped one such as "gpu-24g"; empty: the default), what
// it extends below it, and `given` on top, the weakest first. Throws as ReadProfile does, and
// UsageError for a flag ("--...").
Profile ResolveProfile(const std::string& file, std::span<const GivenSetting> given);

// Sets back to its default what was chosen for another machine or model, unless a flag or a
// variable gave it. Returns the paths.
std::vector<std::string> AdaptProfile(Profile& profile, bool machine_differs, bool model_differs);

}  // namespace tandem
