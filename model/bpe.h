#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace tandem {

// Byte-pair encoding of one word: its bytes become tokens, then of all neighbours that have a merge
// rule the pair of the lowest rank is joined, the leftmost first, until none is left.
// O(n log n) in the word's length: a priority queue of candidates over a linked list of symbols.
class Bpe {
 public:
  static constexpr std::int32_t kNone = -1;

  // byte_ids[b] is the token of byte b, or kNone.
  explicit Bpe(const std::array<std::int32_t, 256>& byte_ids) : byte_ids_(byte_ids) {}

  // Makes room for this many rules.
  void Reserve(std::size_t rules);
  // Rules in the order of their rank. False if there is a rule for this pair already.
  bool AddRule(std::int32_t left, std::int32_t right, std::int32_t joined);

  // Memory that Encode reuses from word to word; one per thread.
  struct Scratch;
  // Appends the word's ids. Returns the first byte that has no token, or kNone if all have one.
  int Encode(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;

 private:
  struct Rule {
    std::uint64_t pair = kFree;
    std::int32_t rank = 0;
    std::int32_t joined = 0;
  };
  struct Symbol {
    std::int32_t id;  // kNone once it has been joined to the one before
    std::int32_t before;
    std::int32_t after;
  };
  struct Candidate {
    std::int32_t rank;
    std::int32_t at;  // index of the left symbol
    std::int32_t joined;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};

  std::size_t Slot(std::uint64_t pair) const;
  const Rule* Find(std::int32_t left, std::int32_t right) const;
  int FillSymbols(std::string_view word, std::vector<Symbol>& symbols) const;
  void Join(std::int32_t at, std::int32_t joined, Scratch& scratch) const;
  void AddCandidate(std::int32_t at, Scratch& scratch) const;

  std::array<std::int32_t, 256> byte_ids_;
  std::vector<Rule> table_;  // open addressing, at most half full
  std::size_t rules_ = 0;
  unsigned shift_ = 64;  // of the 64-bit hash, so that an index into the table is left
};

struct Bpe::Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

}  // namespace tandem
