#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_kernels/attention.h"
#include "cpu_kernels/body.h"

// What a call of attention on tiles works on. In an unnamed namespace, so that no symbol leaves an
// object file.

namespace tandem::cpu::amx {
namespace {

constexpr std::int64_t kTile = 1024;  // bytes of 16 rows of 64
constexpr std::int64_t kTileFloats = kTile / 4;
constexpr std::int64_t kGroup = kAttentionQueries;
constexpr std::int64_t kSteps = kAttentionKeys / 32;       // tiles of keys as a sum's dimension
constexpr std::int64_t kScores = kAttentionKeys * kGroup;  // floats of one group
constexpr std::int64_t kWeights = kSteps * kTileFloats;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tile registers of this thread, all of 16 rows of 64 bytes, for as long as it lives.
struct Tiles {
  Tiles() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// One call: where everything lies in the scratch.
struct Task {
  explicit Task(const AttentionArgs& args)
      : a(args),
        key_steps((args.dk + 31) / 32),
        value_tiles(args.dv / 16),
        layout{args.kv_type, args.dk, args.dv} {
    const auto at = reinterpret_cast<std::uintptr_t>(a.scratch);
    float* p = a.scratch + (64 - at % 64) % 64 / 4;
    keys = reinterpret_cast<std::uint16_t*>(p);
    p += kAttentionKeys * key_steps * 16;
    values = reinterpret_cast<std::uint16_t*>(p);
    p += kSteps * value_tiles * kTileFloats;
    scores = p;
    p += 2 * kScores;
    weights = p;
    p += 2 * kWeights;
    last_out = p;
    packed = reinterpret_cast<std::uint16_t*>(a.packed);
    in_place = a.kv_type == DType::kBF16 && a.dk % 32 == 0;
    groups = (a.n + kGroup - 1) / kGroup;
  }

  // The whole groups' outputs are summed where they belong.
  float* Out(std::int64_t g) const {
    return (g + 1) * kGroup <= a.n ? a.out + g * kGroup * a.out_stride : last_out;
  }
  std::int64_t OutStride(std::int64_t g) const {
    return (g + 1) * kGroup <= a.n ? a.out_stride : a.dv;
  }
  const std::uint16_t* Query(std::int64_t g) const { return packed + g * key_steps * kTile / 2; }

  const AttentionArgs& a;
  std::int64_t key_steps, value_tiles, groups = 0;
  KvLayout layout;
  bool in_place = false;              // keys are tiles as they lie
  std::uint16_t* keys = nullptr;      // [128, dk in whole steps] else
  std::uint16_t* values = nullptr;    // [steps][dv / 16] tiles
  float* scores = nullptr;            // [2 groups][128][16]
  float* weights = nullptr;           // [2 groups][steps] tiles
  float* last_out = nullptr;          // [16, dv] of a group that is not whole
  std::uint16_t* packed = nullptr;    // [groups][key_steps] tiles
  const std::uint8_t* block[2] = {};  // of the keys at hand
  std::int64_t j0 = 0;
  std::int64_t tokens = 0;
};

}  // namespace
}  // namespace tandem::cpu::amx
