#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace tandem {

inline constexpr std::int64_t kKvBlock = 64;  // tokens of one KV block

// Which blocks of the KV cache hold which tokens: a block table per sequence, a reference count per
// block. Knows nothing of bytes or layers; block b is block b of every layer's store.
class KvBlocks {
 public:
  KvBlocks(std::int64_t n_blocks, std::int64_t max_sequences);

  std::int32_t New();  // throws UsageError if max_sequences are in use
  void Free(std::int32_t sequence);
  // Shares the first `tokens` tokens; a block is copied when one side writes into it.
  std::int32_t Fork(std::int32_t sequence, std::int64_t tokens);
  void Truncate(std::int32_t sequence, std::int64_t tokens);

  bool Known(std::int32_t sequence) const { return sequences_.contains(sequence); }
  std::int64_t Length(std::int32_t sequence) const { return Get(sequence).length; }
  std::span<const std::int32_t> Table(std::int32_t sequence) const { return Get(sequence).blocks; }
  std::int64_t in_use() const { return static_cast<std::int64_t>(sequences_.size()); }
  std::int64_t free_blocks() const { return static_cast<std::int64_t>(free_.size()); }

  // New blocks that appending `tokens` tokens takes (copies of shared blocks included).
  std::int64_t BlocksFor(std::int32_t sequence, std::int64_t tokens) const;

  struct Copy {
    std::int32_t from = 0;
    std::int32_t to = 0;
  };
  // Makes room for `tokens` more tokens and counts them in. Lists the block copies that must be
  // made in every store before anything is written. The caller has checked BlocksFor.
  void Append(std::int32_t sequence, std::int64_t tokens, std::vector<Copy>& copies);

 private:
  struct Sequence {
    std::int64_t length = 0;
    std::vector<std::int32_t> blocks;
  };
  const Sequence& Get(std::int32_t sequence) const;
  std::int32_t TakeBlock();
  void DropBlock(std::int32_t block);

  std::int64_t max_sequences_ = 0;
  std::int32_t next_id_ = 0;
  std::unordered_map<std::int32_t, Sequence> sequences_;
  std::vector<std::int32_t> free_;  // as a stack, the lowest block on top at first
  std::vector<std::int32_t> refs_;
};

}  // namespace tandem
