#include "runtime/engine_feed.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "memory/error.h"
#include "runtime/clock.h"

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

EngineFeed::EngineFeed(Engine& engine, std::int64_t context, std::function<bool()> interrupted,
                       OnNote on_note)
    : engine_(engine),
      context_(context),
      interrupted_(std::move(interrupted)),
      on_note_(std::move(on_note)),
      sequence_(engine.NewSequence()) {}

EngineFeed::~EngineFeed() {
  if (sequence_ >= 0) engine_.FreeSequence(sequence_);
}

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

bool EngineFeed::FeedAll(std::span<const std::int32_t> tokens, const LastStep& step) {
  const auto before = static_cast<std::int64_t>(std::ssize(ids_));
  for (;;) {
    try {
      const std::vector<Row> rows =
          FeedAllButLast(tokens.subspan(static_cast<std::size_t>(std::ssize(ids_) - before)));
      if (rows.empty()) return false;
      step(rows);
      Keep(rows);
      return true;
    } catch (const DeviceLostError& lost) {
      if (!Recover(lost.what())) return false;
    }
  }
}

// The sequence as it was before the step that failed; false if interrupted.
bool EngineFeed::Recover(const std::string& lost) {
  if (std::exchange(recovered_, true)) {
    Throw<DeviceLostError>("the device was lost a second time in one generation: {}", lost);
  }
  const double start = Now();
  sequence_ = -1;
  try {
    engine_.Recover();
  } catch (const Error& error) {
    Throw<DeviceLostError>("the device was lost: {}; it could not be opened again: {}", lost,
                           error.what());
  }
  sequence_ = engine_.NewSequence();
  const std::vector<std::int32_t> ids = std::exchange(ids_, {});
  if (!FeedAgain(ids)) return false;
  if (on_note_) {
    on_note_(
        fmt::format("the device was lost and opened again; {} tokens were computed anew, {:.1f} "
                    "s together: {}",
                    ids.size(), Now() - start, lost));
  }
  return true;
}

// False if interrupted.
bool EngineFeed::FeedAgain(const std::vector<std::int32_t>& ids) {
  if (ids.empty()) return true;
  try {
    const std::vector<Row> rows = FeedAllButLast(ids);
    if (rows.empty()) return false;
    engine_.Step(rows);
    Keep(rows);
    return true;
  } catch (const DeviceLostError& lost) {
    Throw<DeviceLostError>("the device was lost a second time in one generation: {}", lost.what());
  }
}

std::span<const float> EngineFeed::Feed(std::span<const std::int32_t> tokens) {
  std::span<const float> logits;
  FeedAll(tokens, [&](std::span<const Row> rows) { logits = engine_.Step(rows); });
  return logits;
}

std::optional<std::int32_t> EngineFeed::FeedGreedy(std::span<const std::int32_t> tokens) {
  std::optional<std::int32_t> id;
  FeedAll(tokens,
          [&](std::span<const Row> rows) { id = engine_.StepGreedy(rows, Expected(rows))[0]; });
  return id;
}

// The row that follows these, but for its token; none where none is expected.
std::vector<Row> EngineFeed::Expected(std::span<const Row> rows) const {
  if (!expects_) return {};
  return {{sequence_, rows.back().position + 1, 0, true}};
}

void EngineFeed::Rest() {
  expects_ = false;
  if (sequence_ >= 0) engine_.ExpectNothing();
}

std::int64_t EngineFeed::Room() const {
  return std::min(context_ - std::ssize(ids_), engine_.FreeTokens());
}

std::int64_t EngineFeed::KeepPrefix(std::span<const std::int32_t> ids) {
  const auto differ = std::ranges::mismatch(ids_, ids).in1;
  const std::int64_t common = std::min<std::int64_t>(differ - ids_.begin(), std::ssize(ids) - 1);
  ids_.resize(static_cast<std::size_t>(std::max<std::int64_t>(common, 0)));
  engine_.Truncate(sequence_, std::ssize(ids_));
  recovered_ = false;  // another generation begins
  return std::ssize(ids_);
}

}  // namespace tandem
