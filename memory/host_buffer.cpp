#include "memory/host_buffer.h"

#include <numa.h>
#include <numaif.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "memory/error.h"

namespace tandem {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// True if [p, p + bytes) will take its pages from `node`.
bool BindTo(void* p, std::size_t bytes, int node) {
  if (node < 0 || numa_available() < 0) return false;
  if (numa_max_node() == 0) return true;  // there is only one place
  unsigned long mask[16] = {};
  constexpr int kBits = 8 * sizeof(unsigned long);
  if (node >= 16 * kBits) return false;
  mask[node / kBits] = 1UL << (node % kBits);
  return mbind(p, bytes, MPOL_BIND, mask, 16 * kBits, 0) == 0;
}

}  // namespace

void Unmap::operator()(void* /*data*/) const noexcept { munmap(base, mapped); }

HostBuffer::HostBuffer(std::size_t bytes, int node) : bytes_(bytes) {
  if (bytes == 0) return;
  const bool huge = bytes >= kHugePage;
  // Start on a huge-page boundary, so that the first and last pages can be huge too.
  const std::size_t mapped = huge ? (bytes + 2 * kHugePage - 1) / kHugePage * kHugePage : bytes;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    Throw<SystemError>(
        "host memory: {} bytes asked for, the system refused: {}; free memory or "
        "lower the profile's memory.host",
        bytes, std::strerror(errno));
  }
  auto address = reinterpret_cast<std::uintptr_t>(base);
  if (huge) address = (address + kHugePage - 1) / kHugePage * kHugePage;
  void* data = reinterpret_cast<void*>(address);
  memory_ = std::unique_ptr<void, Unmap>(data, Unmap{base, mapped});
  counted_ = CountedBytes(CountedBytes::kHost, bytes);
  if (huge) madvise(data, bytes, MADV_HUGEPAGE);  // advice: a refusal costs speed only
  bound_ = BindTo(data, bytes, node);
}

void HostBuffer::Discard(std::size_t offset, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data()) + offset;
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  counted_.Shrink(bytes);
}

}  // namespace tandem
