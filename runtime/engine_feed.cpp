#include "runtime/engine_feed.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace tandem {
namespace {

std::vector<Row> RowsOf(std::int32_t sequence, std::int64_t position,
                        std::span<const std::int32_t> tokens) {
  std::vector<Row> rows;
  rows.reserve(tokens.size());
  for (const std::int32_t token : tokens) {
    rows.push_back({sequence, static_cast<std::int32_t>(position++), token, false});
  }
  return rows;
}

}  // namespace

EngineFeed::EngineFeed(Engine& engine, std::int64_t context, std::function<bool()> interrupted)
    : engine_(engine),
      context_(context),
      interrupted_(std::move(interrupted)),
      sequence_(engine.NewSequence()) {}

EngineFeed::~EngineFeed() { engine_.FreeSequence(sequence_); }

std::span<const float> EngineFeed::Feed(std::span<const std::int32_t> tokens) {
  std::span<const float> logits;
  while (!tokens.empty()) {
    if (interrupted_()) return {};
    const auto count = std::min(tokens.size(), static_cast<std::size_t>(engine_.plan().max_rows));
    std::vector<Row> rows = RowsOf(sequence_, std::ssize(ids_), tokens.first(count));
    rows.back().wants_logits = count == tokens.size();
    logits = engine_.Step(rows);
    ids_.insert(ids_.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count));
    tokens = tokens.subspan(count);
  }
  return logits;
}

std::int64_t EngineFeed::Room() const {
  return std::min(context_ - std::ssize(ids_), engine_.FreeTokens());
}

std::int64_t EngineFeed::KeepPrefix(std::span<const std::int32_t> ids) {
  const auto differ = std::ranges::mismatch(ids_, ids).in1;
  const std::int64_t common = std::min<std::int64_t>(differ - ids_.begin(), std::ssize(ids) - 1);
  ids_.resize(static_cast<std::size_t>(std::max<std::int64_t>(common, 0)));
  engine_.Truncate(sequence_, std::ssize(ids_));
  return std::ssize(ids_);
}

}  // namespace tandem
