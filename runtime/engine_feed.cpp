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

std::vector<Row> EngineFeed::FeedAllButLast(std::span<const std::int32_t> tokens) {
  const auto most = static_cast<std::size_t>(engine_.plan().max_rows);
  while (!interrupted_()) {
    const std::size_t count = std::min(tokens.size(), most);
    std::vector<Row> rows = RowsOf(sequence_, std::ssize(ids_), tokens.first(count));
    tokens = tokens.subspan(count);
    if (tokens.empty()) {
      if (!rows.empty()) rows.back().wants_logits = true;
      return rows;
    }
    engine_.Step(rows);
    Keep(rows);
  }
  return {};
}

void EngineFeed::Keep(std::span<const Row> rows) {
  for (const Row& row : rows) ids_.push_back(row.token);
}

std::span<const float> EngineFeed::Feed(std::span<const std::int32_t> tokens) {
  const std::vector<Row> rows = FeedAllButLast(tokens);
  if (rows.empty()) return {};
  const std::span<const float> logits = engine_.Step(rows);
  Keep(rows);
  return logits;
}

std::optional<std::int32_t> EngineFeed::FeedGreedy(std::span<const std::int32_t> tokens) {
  const std::vector<Row> rows = FeedAllButLast(tokens);
  if (rows.empty()) return std::nullopt;
  const std::int32_t id = engine_.StepGreedy(rows)[0];
  Keep(rows);
  return id;
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
