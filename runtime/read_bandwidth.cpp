#include "runtime/read_bandwidth.h"

#include <array>
#include <chrono>
#include <cstring>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr int kSpinUs = 50;
constexpr std::size_t kLineWords = 8;  // of 64 bits in a cache line
constexpr std::size_t kStreams = 4;    // places read at once: more lines in flight per core

// The sum of all words. Four streams with eight accumulators each, which the compiler turns into
// vectors, keep the core waiting for memory and not for its adders.
std::uint64_t Sum(const std::uint64_t* words, std::size_t count) {
  const std::size_t stride = count / kStreams;
  std::array<std::uint64_t, kStreams* kLineWords> sums = {};
  for (std::size_t i = 0; i + kLineWords <= stride; i += kLineWords) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      for (std::size_t w = 0; w < kLineWords; ++w) {
        sums[s * kLineWords + w] += words[s * stride + i + w];
      }
    }
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

ReadBandwidth::ReadBandwidth(const std::vector<PlanNode>& nodes, std::size_t bytes, int memory_node)
    : pool_(nodes, kSpinUs) {
  constexpr std::size_t kUnit = kStreams * kLineWords * sizeof(std::uint64_t);
  const std::size_t workers = static_cast<std::size_t>(pool_.size());
  const std::size_t part = bytes / workers / kUnit * kUnit;
  TANDEM_CHECK(part > 0);
  for (std::size_t i = 0; i < workers; ++i) parts_.emplace_back(part, memory_node);
  sums_.resize(workers);
  bytes_ = part * workers;
  const WorkerPool::CallerPin pin(pool_);
  // The first touch decides the node. A byte that is not zero keeps pages from being shared.
  pool_.Run(
      [&](const Worker& w) { std::memset(parts_[w.index].data(), 1, parts_[w.index].bytes()); });
}

double ReadBandwidth::Measure() {
  const WorkerPool::CallerPin pin(pool_);
  const auto start = std::chrono::steady_clock::now();
  pool_.Run([&](const Worker& w) {
    const HostBuffer& part = parts_[w.index];
    sums_[w.index] = Sum(part.as<std::uint64_t>(), part.bytes() / sizeof(std::uint64_t));
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  for (const std::uint64_t sum : sums_) TANDEM_CHECK(sum != 0);
  return static_cast<double>(bytes_) / seconds.count();
}

}  // namespace tandem
