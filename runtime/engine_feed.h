#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/generate.h"

namespace tandem {

// One sequence of an engine as a TokenFeed. Long input goes in steps of plan.max_rows, with a look
// at `interrupted` between them. A device that is lost in a step is opened again, once in a
// generation, and the sequence computed anew.
class EngineFeed final : public TokenFeed {
 public:
  // Told in a line what was lost and came back.
  using OnNote = std::function<void(const std::string&)>;

  // The engine outlives the feed. `context` bounds the sequence's length.
  EngineFeed(Engine& engine, std::int64_t context, std::function<bool()> interrupted,
             OnNote on_note = nullptr);
  ~EngineFeed() override;
  EngineFeed(const EngineFeed&) = delete;
  EngineFeed& operator=(const EngineFeed&) = delete;

  std::span<const float> Feed(std::span<const std::int32_t> tokens) override;
  std::optional<std::int32_t> FeedGreedy(std::span<const std::int32_t> tokens) override;
  void ExpectAnother(bool expected) override { expects_ = expected; }
  void Rest() override;
  std::int64_t Room() const override;

  // Keeps the longest common beginning of what is cached and `ids`, forgets the rest, and gives its
  // length: ids from there on are still to be fed. At least one id always is, for its logits.
  std::int64_t KeepPrefix(std::span<const std::int32_t> ids);

 private:
  // Feeds all but the last step's rows, which it gives, for the caller to run; none if interrupted.
  std::vector<Row> FeedAllButLast(std::span<const std::int32_t> tokens);
  void Keep(std::span<const Row> rows);
  // All of `tokens`, the last step by `step`; after the loss of the device once more.
  using LastStep = std::function<void(std::span<const Row>)>;
  bool FeedAll(std::span<const std::int32_t> tokens, const LastStep& step);
  bool Recover(const std::string& lost);
  std::vector<Row> Expected(std::span<const Row> rows) const;
  bool FeedAgain(const std::vector<std::int32_t>& ids);

  Engine& engine_;
  std::int64_t context_;
  std::function<bool()> interrupted_;
  OnNote on_note_;
  std::int32_t sequence_;          // -1: the engine is gone
  std::vector<std::int32_t> ids_;  // in the cache
  bool recovered_ = false;         // in this generation
  bool expects_ = false;           // one more token after the next ones
};

}  // namespace tandem
