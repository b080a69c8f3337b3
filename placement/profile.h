#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "memory/dtype.h"

namespace tandem {

// Where the user wants a role: the planner's choice, or a side.
enum class Side : std::uint8_t { kAuto, kHost, kDevice };

// What profiles/*.yaml and the command line say; the defaults are those of an empty profile.
// Schema in profiles/README.md.
struct Profile {
  std::string file;             // for messages; empty for the built-in default
  std::string device = "auto";  // "auto", "none", an index, or a part of a device's name
  std::optional<std::uint64_t>
      device_memory_bytes;  // budget; absent: what the device has, less a reserve
  std::optional<std::uint64_t>
      host_memory_bytes;       // budget; absent: the machine's limit, less a reserve
  std::optional<int> threads;  // of the CPU team; absent: every core (shared out with a CPU device)
  std::optional<int> device_threads;  // of a device that shares the cores
  std::int64_t context = 4096;        // tokens of KV cache over all sequences
  std::int64_t max_sequences = 4;
  std::int64_t chunk = 512;      // rows of one step at the most (prefill chunk)
  // What CPU kernels may round activations to in fast runs: f32 (not at all) or bf16.
  DType activation_type = DType::kF32;
  std::optional<DType> kv_type;  // f32, bf16 or f16; absent: by precision

  Side attention = Side::kAuto;
  Side dense = Side::kAuto;
  Side shared_experts = Side::kAuto;
  Side router = Side::kAuto;
  Side head = Side::kAuto;

  // Routed experts on the device: auto fills what is left of the budget; or a share in [0, 1] of
  // the experts of every layer; or a number of bytes. `order` (expert ids, hottest first) applies
  // to every layer; absent: 0, 1, 2, ...
  enum class Experts : std::uint8_t { kAuto, kShare, kBytes } experts = Experts::kAuto;
  double experts_share = 0;
  std::uint64_t experts_bytes = 0;
  std::vector<int> experts_order;
  // Attention, dense parts, router and shared experts of these layers only are wanted on the device
  // ([first, last], absent: all).
  std::optional<std::pair<std::int64_t, std::int64_t>> device_layers;
};

// Reads a profile. Throws ConfigError "file:line:col: ..." for syntax errors, unknown keys (with
// the nearest known one), wrong types, impossible values and aliases; SystemError (66) if it is
// absent.
Profile ReadProfile(const std::string& file);
// The same from text, for tests.
Profile ParseProfile(const std::string& yaml, const std::string& file);

}  // namespace tandem
