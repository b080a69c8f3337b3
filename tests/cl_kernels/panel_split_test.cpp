// ctest: opencl
// Matrices out of the CPU's panels in the layout of devices, against the split of the same blocks.
#include <gtest/gtest.h>

#include "cpu_kernels/panel.h"
#include "memory/blocks.h"
#include "memory/split_layout.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

constexpr std::byte kUntouched{0xA5};
constexpr std::uint64_t kBefore = 256;  // bytes before the codes, and before the side

class PanelSplitTest : public test::ClTest {
 protected:
  // What the device must hold: codes and side behind gaps that stay untouched.
  static std::vector<std::byte> Want(DType type, const std::vector<std::byte>& blocks,
                                     std::int64_t rows, std::int64_t cols, std::uint64_t side_at) {
    std::vector<std::byte> want(side_at + SplitSideBytes(type, rows, cols) + kBefore, kUntouched);
    std::array<std::byte*, 3> side = {};
    for (int i = 0; i < 3; ++i) {
      side[i] = want.data() + side_at + SplitSideOffset(type, rows, cols, i);
    }
    SplitBlocks(type, blocks.data(), rows, cols, want.data() + kBefore, side);
    return want;
  }

  void Check(DType type, std::int64_t rows, std::int64_t cols) {
    std::mt19937 random(static_cast<unsigned>(rows * 31 + cols));
    std::vector<std::byte> blocks(DataBytes(type, rows * cols));
    for (std::byte& b : blocks) b = static_cast<std::byte>(random() >> 24);  // any bits at all
    std::vector<std::byte> panels(kBefore + PackedBytes(type, rows, cols));
    cpu::PackPanels(type, blocks.data(), rows, cols, panels.data() + kBefore);

    const std::uint64_t side_at = 2 * kBefore + (SplitDataBytes(type, rows, cols) + 15) / 16 * 16;
    const std::vector<std::byte> want = Want(type, blocks, rows, cols, side_at);
    const ClBuffer in = test::Upload(device(), panels);
    const ClBuffer out = test::Upload(device(), std::vector<std::byte>(want.size(), kUntouched));
    kernels().PanelSplit({in.get(), kBefore, type, rows, cols, out.get(), kBefore, side_at});
    const auto got = test::Download<std::byte>(device(), out, want.size());
    const auto [g, w] = std::ranges::mismatch(got, want);
    EXPECT_TRUE(g == got.end()) << Name(type) << " " << rows << " x " << cols << ": byte "
                                << g - got.begin() << " of " << got.size() << " (side at "
                                << side_at << "): got " << static_cast<int>(*g) << ", want "
                                << static_cast<int>(*w);
  }

  cl::Kernels& kernels() {
    static cl::Kernels kernels(device(), "");
    return kernels;
  }
};

TEST_F(PanelSplitTest, GivesTheBitsOfTheFilesBlocks) {
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kMXFP4, DType::kQ4_K,
                           DType::kQ5_K, DType::kQ6_K}) {
    const std::int64_t block = BlockElements(type);
    Check(type, 1, block);
    Check(type, 16, block);
    Check(type, 33, 3 * block);
    Check(type, 128, 1536);
  }
}

}  // namespace
}  // namespace tandem
