// ctest: opencl
#include "memory/cl_shared.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "tests/support/cl_fixture.h"

namespace tandem {

void PrintTo(SharedKind kind, std::ostream* os) { *os << Name(kind); }

namespace {

constexpr std::size_t kWords = 3000;
constexpr std::size_t kBytes = kWords * sizeof(std::uint32_t);

std::vector<std::uint32_t> Counting(std::uint32_t first) {
  std::vector<std::uint32_t> words(kWords);
  std::iota(words.begin(), words.end(), first);
  return words;
}

class ClSharedTest : public test::ClTest, public ::testing::WithParamInterface<SharedKind> {
 protected:
  std::optional<ClSharedBuffer> Allocate() const {
    return ClSharedBuffer::Allocate(device(), kBytes, GetParam());
  }
  std::vector<std::uint32_t> Read(cl_mem mem) const {
    std::vector<std::uint32_t> words(kWords);
    device().BlockingRead(mem, 0, words.data(), kBytes);
    return words;
  }
};

TEST_P(ClSharedTest, BeginsAsZeros) {
  const auto shared = Allocate();
  if (!shared) GTEST_SKIP() << device().info().name << " has no " << Name(GetParam());
  EXPECT_EQ(Read(shared->mem()), std::vector<std::uint32_t>(kWords, 0));
  const std::vector<std::byte> host(shared->host(), shared->host() + kBytes);
  EXPECT_EQ(host, std::vector<std::byte>(kBytes));
}

// No map and no unmap between: that is what it is for.
TEST_P(ClSharedTest, HostAndCommandsSeeEachOthersWrites) {
  const auto shared = Allocate();
  if (!shared) GTEST_SKIP() << device().info().name << " has no " << Name(GetParam());
  for (std::uint32_t round = 1; round <= 3; ++round) {
    const auto of_host = Counting(round * 10'000);
    std::memcpy(shared->host(), of_host.data(), kBytes);
    EXPECT_EQ(Read(shared->mem()), of_host);
    const auto of_device = Counting(round * 70'000);
    const ClBuffer source = test::Upload(device(), of_device);
    device().Copy(source.get(), 0, shared->mem(), 0, kBytes);
    device().Finish();
    EXPECT_EQ(std::memcmp(shared->host(), of_device.data(), kBytes), 0);
  }
}

TEST_P(ClSharedTest, MovesWithItsMemory) {
  auto shared = Allocate();
  if (!shared) GTEST_SKIP() << device().info().name << " has no " << Name(GetParam());
  const std::byte* host = shared->host();
  const std::uint64_t counted = HostBufferBytes();
  ClSharedBuffer other = std::move(*shared);
  EXPECT_EQ(other.host(), host);
  EXPECT_EQ(HostBufferBytes(), counted);
  ClSharedBuffer third;
  third = std::move(other);
  const auto words = Counting(5);
  std::memcpy(third.host(), words.data(), kBytes);
  EXPECT_EQ(Read(third.mem()), words);
}

TEST_P(ClSharedTest, IsCountedWhileItLives) {
  const std::uint64_t before = HostBufferBytes();
  {
    const auto shared = Allocate();
    if (!shared) GTEST_SKIP() << device().info().name << " has no " << Name(GetParam());
    const ClPinned pinned(device(), kBytes);
    EXPECT_EQ(HostBufferBytes(), before + 2 * kBytes);
  }
  EXPECT_EQ(HostBufferBytes(), before);
}

TEST_P(ClSharedTest, TooMuchIsRefusedByNameAndSize) {
  const std::size_t bytes = device().info().global_mem_bytes * 4 + 1;
  const auto says = [&](auto&& allocate) {
    try {
      allocate();
      ADD_FAILURE() << bytes << " bytes were allocated";
    } catch (const OpenClError& e) {
      EXPECT_NE(std::string(e.what()).find(std::to_string(bytes)), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find(device().info().name), std::string::npos) << e.what();
    }
  };
  says([&] { ClPinned(device(), bytes); });
  if (Allocate()) says([&] { ClSharedBuffer::Allocate(device(), bytes, GetParam()); });
}

INSTANTIATE_TEST_SUITE_P(Kinds, ClSharedTest,
                         ::testing::Values(SharedKind::kNvHost, SharedKind::kSvm,
                                           SharedKind::kMapped),
                         [](const ::testing::TestParamInfo<SharedKind>& kind) {
                           return std::string(Name(kind.param));
                         });

using ClPinnedTest = test::ClTest;

TEST_F(ClPinnedTest, CopiesBothWays) {
  const ClPinned pinned(device(), 2 * kBytes);
  ASSERT_EQ(pinned.bytes(), 2 * kBytes);
  const auto words = Counting(123);
  std::memcpy(pinned.host(), words.data(), kBytes);
  const ClBuffer buffer = device().Allocate(kBytes);
  device().Write(buffer.get(), 0, pinned.host(), kBytes);
  ASSERT_EQ(clEnqueueReadBuffer(device().queue(), buffer.get(), CL_FALSE, 0, kBytes,
                                pinned.host() + kBytes, 0, nullptr, nullptr),
            CL_SUCCESS);
  device().Finish();
  EXPECT_EQ(std::memcmp(pinned.host() + kBytes, words.data(), kBytes), 0);
}

// The mapping of a CPU device's buffer is the memory, whatever else the device has.
TEST_F(ClPinnedTest, ACpuDeviceHasSharedMemory) {
  const auto shared = ClSharedBuffer::Allocate(device(), kBytes);
  if (!device().info().is_cpu && !shared) GTEST_SKIP() << device().info().name << " has none";
  ASSERT_TRUE(shared.has_value());
  EXPECT_EQ(shared->bytes(), kBytes);
  if (!device().info().is_cpu) return;
  EXPECT_TRUE(ClSharedBuffer::Allocate(device(), kBytes, SharedKind::kMapped).has_value());
  EXPECT_FALSE(ClSharedBuffer::Allocate(device(), kBytes, SharedKind::kNvHost).has_value());
}

}  // namespace
}  // namespace tandem
