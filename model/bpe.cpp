#include "model/bpe.h"

#include <algorithm>
#include <bit>

namespace tandem {
namespace {

std::uint64_t PairOf(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

}  // namespace

void Bpe::Reserve(std::size_t rules) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(2 * rules, 16));
  shift_ = 64u - static_cast<unsigned>(std::countr_zero(slots));
  std::vector<Rule> old(slots);
  old.swap(table_);
  for (const Rule& rule : old) {
    if (rule.pair != kFree) table_[Slot(rule.pair)] = rule;
  }
}

// Where the pair is, or the free place where it belongs. The multiplier is 2^64 / golden ratio.
std::size_t Bpe::Slot(std::uint64_t pair) const {
  std::uint64_t mixed = pair ^ (pair >> 29);
  mixed *= 0x9E3779B97F4A7C15u;
  std::size_t slot = mixed >> shift_;
  while (table_[slot].pair != pair && table_[slot].pair != kFree) {
    slot = (slot + 1) & (table_.size() - 1);
  }
  return slot;
}

bool Bpe::AddRule(std::int32_t left, std::int32_t right, std::int32_t joined) {
  if (2 * (rules_ + 1) > table_.size()) Reserve(2 * (rules_ + 1));
  const std::uint64_t pair = PairOf(left, right);
  Rule& rule = table_[Slot(pair)];
  if (rule.pair == pair) return false;
  rule = {pair, static_cast<std::int32_t>(rules_), joined};
  ++rules_;
  return true;
}

const Bpe::Rule* Bpe::Find(std::int32_t left, std::int32_t right) const {
  if (rules_ == 0) return nullptr;
  const Rule& rule = table_[Slot(PairOf(left, right))];
  return rule.pair == kFree ? nullptr : &rule;
}

int Bpe::FillSymbols(std::string_view word, std::vector<Symbol>& symbols) const {
  const auto count = static_cast<std::int32_t>(word.size());
  symbols.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    if (byte_ids_[byte] == kNone) return byte;
    symbols.push_back({byte_ids_[byte], i - 1, i + 1 < count ? i + 1 : kNone});
  }
  return kNone;
}

void Bpe::AddCandidate(std::int32_t at, Scratch& scratch) const {
  if (at == kNone) return;
  const Symbol& left = scratch.symbols[static_cast<std::size_t>(at)];
  if (left.after == kNone) return;
  const Rule* rule = Find(left.id, scratch.symbols[static_cast<std::size_t>(left.after)].id);
  if (rule != nullptr) scratch.heap.push_back({rule->rank, at, rule->joined});
}

namespace {

// For std::push_heap, whose top is the largest: lowest rank first, then leftmost.
constexpr auto kLater = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
};

}  // namespace

void Bpe::Join(std::int32_t at, std::int32_t joined, Scratch& scratch) const {
  Symbol& left = scratch.symbols[static_cast<std::size_t>(at)];
  Symbol& right = scratch.symbols[static_cast<std::size_t>(left.after)];
  left.id = joined;
  left.after = right.after;
  right.id = kNone;
  if (left.after != kNone) scratch.symbols[static_cast<std::size_t>(left.after)].before = at;
  for (const std::int32_t neighbour : {left.before, at}) {
    const std::size_t before = scratch.heap.size();
    AddCandidate(neighbour, scratch);
    if (scratch.heap.size() > before) {
      std::push_heap(scratch.heap.begin(), scratch.heap.end(), kLater);
    }
  }
}

int Bpe::Encode(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  const int missing = FillSymbols(word, scratch.symbols);
  if (missing != kNone) return missing;
  std::vector<Candidate>& heap = scratch.heap;
  heap.clear();
  for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(word.size()); ++i) {
    AddCandidate(i, scratch);
  }
  std::make_heap(heap.begin(), heap.end(), kLater);
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), kLater);
    heap.pop_back();
    const Symbol& left = scratch.symbols[static_cast<std::size_t>(best.at)];
    if (left.id == kNone || left.after == kNone) continue;
    // Its symbols may have changed since. Like the Hugging Face library, this compares the results:
    // another pair that joins to the same token is joined now, at the rank of the first.
    const Rule* rule = Find(left.id, scratch.symbols[static_cast<std::size_t>(left.after)].id);
    if (rule != nullptr && rule->joined == best.joined) Join(best.at, best.joined, scratch);
  }
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.id != kNone) ids.push_back(symbol.id);
  }
  return kNone;
}

}  // namespace tandem
