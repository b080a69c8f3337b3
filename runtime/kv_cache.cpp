#include "runtime/kv_cache.h"

#include "memory/error.h"

namespace tandem {
namespace {

std::int64_t BlocksOf(std::int64_t tokens) { return (tokens + kKvBlock - 1) / kKvBlock; }

}  // namespace

KvBlocks::KvBlocks(std::int64_t n_blocks, std::int64_t max_sequences)
    : max_sequences_(max_sequences), refs_(n_blocks, 0) {
  for (std::int64_t b = n_blocks - 1; b >= 0; --b) free_.push_back(static_cast<std::int32_t>(b));
}

const KvBlocks::Sequence& KvBlocks::Get(std::int32_t sequence) const {
  const auto it = sequences_.find(sequence);
  if (it == sequences_.end()) Throw<UsageError>("sequence {} does not exist", sequence);
  return it->second;
}

std::int32_t KvBlocks::New() {
  if (static_cast<std::int64_t>(sequences_.size()) >= max_sequences_) {
    Throw<UsageError>(
        "all {} sequences of the plan are in use; raise workload.sequences in the "
        "profile or free one",
        max_sequences_);
  }
  sequences_.emplace(next_id_, Sequence{});
  return next_id_++;
}

void KvBlocks::Free(std::int32_t sequence) {
  Truncate(sequence, 0);
  sequences_.erase(sequence);
}

std::int32_t KvBlocks::Fork(std::int32_t sequence, std::int64_t tokens) {
  if (tokens < 0 || tokens > Get(sequence).length) {
    Throw<UsageError>("fork of sequence {} at token {}: it has {} tokens", sequence, tokens,
                      Get(sequence).length);
  }
  const std::int32_t id = New();
  const Sequence& from = Get(sequence);
  Sequence& to = sequences_.at(id);
  to.length = tokens;
  to.blocks.assign(from.blocks.begin(), from.blocks.begin() + BlocksOf(tokens));
  for (std::int32_t b : to.blocks) ++refs_[b];
  return id;
}

void KvBlocks::Truncate(std::int32_t sequence, std::int64_t tokens) {
  const std::int64_t length = Get(sequence).length;
  if (tokens < 0 || tokens > length) {
    Throw<UsageError>("truncation of sequence {} to {} tokens: it has {}", sequence, tokens,
                      length);
  }
  Sequence& s = sequences_.at(sequence);
  while (static_cast<std::int64_t>(s.blocks.size()) > BlocksOf(tokens)) {
    DropBlock(s.blocks.back());
    s.blocks.pop_back();
  }
  s.length = tokens;
}

std::int64_t KvBlocks::BlocksFor(std::int32_t sequence, std::int64_t tokens) const {
  const Sequence& s = Get(sequence);
  const std::int64_t fresh =
      BlocksOf(s.length + tokens) - static_cast<std::int64_t>(s.blocks.size());
  const bool shared_tail = tokens > 0 && s.length % kKvBlock != 0 && refs_[s.blocks.back()] > 1;
  return fresh + (shared_tail ? 1 : 0);
}

void KvBlocks::Append(std::int32_t sequence, std::int64_t tokens, std::vector<Copy>& copies) {
  TANDEM_CHECK(Known(sequence) && BlocksFor(sequence, tokens) <= free_blocks());
  Sequence& s = sequences_.at(sequence);
  if (tokens > 0 && s.length % kKvBlock != 0 && refs_[s.blocks.back()] > 1) {
    const std::int32_t mine = TakeBlock();
    copies.push_back({s.blocks.back(), mine});
    DropBlock(s.blocks.back());
    s.blocks.back() = mine;
  }
  s.length += tokens;
  while (static_cast<std::int64_t>(s.blocks.size()) < BlocksOf(s.length)) {
    s.blocks.push_back(TakeBlock());
  }
}

std::int32_t KvBlocks::TakeBlock() {
  const std::int32_t b = free_.back();
  free_.pop_back();
  refs_[b] = 1;
  return b;
}

void KvBlocks::DropBlock(std::int32_t block) {
  if (--refs_[block] == 0) free_.push_back(block);
}

}  // namespace tandem
