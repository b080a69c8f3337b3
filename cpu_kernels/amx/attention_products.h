#pragma once

#include "cpu_kernels/amx/attention_task.h"

// The products of attention on tiles: keys with queries, and weights with values. In an unnamed
// namespace, so that no symbol leaves an object file.

namespace tandem::cpu::amx {
namespace {

// 64 keys of one half against one group: four tiles of scores.
void ScoreOne(const Task& t, const std::uint8_t* keys, std::int64_t stride, std::int64_t g,
              float* scores) {
  const std::uint16_t* q = t.Query(g);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t k = 0; k < t.key_steps; ++k) {
    const std::uint8_t* key = keys + k * 64;
    _tile_loadd(6, q + k * kTile / 2, 64);
    _tile_loadd(4, key, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, key + 16 * stride, stride);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(4, key + 32 * stride, stride);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(5, key + 48 * stride, stride);
    _tile_dpbf16ps(3, 5, 6);
  }
  _tile_stored(0, scores, 64);
  _tile_stored(1, scores + kTileFloats, 64);
  _tile_stored(2, scores + 2 * kTileFloats, 64);
  _tile_stored(3, scores + 3 * kTileFloats, 64);
}

// 32 keys against two groups.
void ScoreTwo(const Task& t, const std::uint8_t* keys, std::int64_t stride, std::int64_t g,
              float* scores) {
  const std::uint16_t* q0 = t.Query(g);
  const std::uint16_t* q1 = t.Query(g + 1);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t k = 0; k < t.key_steps; ++k) {
    const std::uint8_t* key = keys + k * 64;
    _tile_loadd(4, key, stride);
    _tile_loadd(6, q0 + k * kTile / 2, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, q1 + k * kTile / 2, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, key + 16 * stride, stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, scores, 64);
  _tile_stored(1, scores + kScores, 64);
  _tile_stored(2, scores + kTileFloats, 64);
  _tile_stored(3, scores + kScores + kTileFloats, 64);
}

void Scores(const Task& t, std::int64_t g, bool two) {
  for (std::int64_t j = 0; j < t.tokens; j += kKvBlockTokens) {
    const auto* keys = t.in_place
                           ? t.block[j / kKvBlockTokens] + t.a.k_offset * 2
                           : reinterpret_cast<const std::uint8_t*>(t.keys + j * t.key_steps * 32);
    const std::int64_t stride = t.in_place ? t.a.token_bytes : t.key_steps * 64;
    float* scores = t.scores + j * kGroup;
    if (two) {
      ScoreTwo(t, keys, stride, g, scores);
      ScoreTwo(t, keys + 32 * stride, stride, g, scores + 2 * kTileFloats);
    } else {
      ScoreOne(t, keys, stride, g, scores);
    }
  }
}

// out += weights * values, four tiles of columns of one group.
void AddFour(const Task& t, std::int64_t g, std::int64_t c) {
  float* out = t.Out(g) + c * 16;
  const std::int64_t stride = t.OutStride(g) * 4;
  _tile_loadd(0, out, stride);
  _tile_loadd(1, out + 16, stride);
  _tile_loadd(2, out + 32, stride);
  _tile_loadd(3, out + 48, stride);
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    const std::uint16_t* value = t.values + (step * t.value_tiles + c) * kTile / 2;
    _tile_loadd(6, t.weights + step * kTileFloats, 64);
    _tile_loadd(4, value, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, value + kTile / 2, 64);
    _tile_dpbf16ps(1, 6, 5);
    _tile_loadd(4, value + kTile, 64);
    _tile_dpbf16ps(2, 6, 4);
    _tile_loadd(5, value + 3 * kTile / 2, 64);
    _tile_dpbf16ps(3, 6, 5);
  }
  _tile_stored(0, out, stride);
  _tile_stored(1, out + 16, stride);
  _tile_stored(2, out + 32, stride);
  _tile_stored(3, out + 48, stride);
}

// One tile of columns of one group, whose weights are the `of_two`th.
void AddOne(const Task& t, std::int64_t g, std::int64_t of_two, std::int64_t c) {
  float* out = t.Out(g) + c * 16;
  const std::int64_t stride = t.OutStride(g) * 4;
  _tile_loadd(0, out, stride);
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    _tile_loadd(6, t.weights + of_two * kWeights + step * kTileFloats, 64);
    _tile_loadd(4, t.values + (step * t.value_tiles + c) * kTile / 2, 64);
    _tile_dpbf16ps(0, 6, 4);
  }
  _tile_stored(0, out, stride);
}

// Two tiles of columns of two groups.
void AddTwoByTwo(const Task& t, std::int64_t g, std::int64_t c) {
  float* out0 = t.Out(g) + c * 16;
  float* out1 = t.Out(g + 1) + c * 16;
  const std::int64_t stride0 = t.OutStride(g) * 4;
  const std::int64_t stride1 = t.OutStride(g + 1) * 4;
  _tile_loadd(0, out0, stride0);
  _tile_loadd(1, out0 + 16, stride0);
  _tile_loadd(2, out1, stride1);
  _tile_loadd(3, out1 + 16, stride1);
  for (std::int64_t step = 0; step * 32 < t.tokens; ++step) {
    const std::uint16_t* value = t.values + (step * t.value_tiles + c) * kTile / 2;
    _tile_loadd(6, t.weights + step * kTileFloats, 64);
    _tile_loadd(4, value, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, value + kTile / 2, 64);
    _tile_dpbf16ps(1, 6, 5);
    _tile_loadd(7, t.weights + kWeights + step * kTileFloats, 64);
    _tile_dpbf16ps(2, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
  }
  _tile_stored(0, out0, stride0);
  _tile_stored(1, out0 + 16, stride0);
  _tile_stored(2, out1, stride1);
  _tile_stored(3, out1 + 16, stride1);
}

void AddValues(const Task& t, std::int64_t g, bool two) {
  std::int64_t c = 0;
  if (two) {
    for (; c + 2 <= t.value_tiles; c += 2) AddTwoByTwo(t, g, c);
  } else {
    for (; c + 4 <= t.value_tiles; c += 4) AddFour(t, g, c);
  }
  for (; c < t.value_tiles; ++c) {
    AddOne(t, g, 0, c);
    if (two) AddOne(t, g + 1, 1, c);
  }
}

}  // namespace
}  // namespace tandem::cpu::amx
