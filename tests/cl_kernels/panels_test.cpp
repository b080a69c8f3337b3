// ctest: opencl
// Matrices out of the CPU's panels, against the CPU's own decoding.
#include <gtest/gtest.h>

#include "cpu_kernels/panel.h"
#include "memory/blocks.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;

class PanelsTest : public test::ClShapesTest {
 protected:
  // Blocks of random bytes whose scales are small numbers: any code, no infinity.
  static std::vector<std::byte> Blocks(DType type, std::int64_t rows, std::int64_t cols) {
    std::mt19937 random(static_cast<unsigned>(rows * 31 + cols));
    std::vector<std::byte> blocks(DataBytes(type, rows * cols));
    for (std::byte& b : blocks) b = static_cast<std::byte>(random() >> 24);
    const std::size_t bytes = BlockBytes(type);
    for (std::size_t at = 0; at < blocks.size(); at += bytes) {
      if (type == DType::kMXFP4) {
        blocks[at] = static_cast<std::byte>(120 + random() % 16);
        continue;
      }
      const std::uint16_t d = F32ToF16(0.01F + static_cast<float>(random() % 100) * 0.001F);
      const std::size_t where = type == DType::kQ6_K ? bytes - 2 : 0;
      std::memcpy(&blocks[at + where], &d, 2);
      const bool two = type == DType::kQ4_K || type == DType::kQ5_K;
      if (two) std::memcpy(&blocks[at + 2], &d, 2);
    }
    return blocks;
  }

  void Check(DType type, std::int64_t rows, std::int64_t cols) {
    const std::vector<std::byte> blocks = Blocks(type, rows, cols);
    std::vector<float> want(static_cast<std::size_t>(rows * cols));
    DecodeBlocks(type, blocks.data(), want);
    std::vector<std::byte> room(PackedBytes(type, rows, cols) + 64);
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(room.data()) % 64;
    std::byte* panels = room.data() + (64 - misaligned) % 64;
    cpu::PackPanels(type, blocks.data(), rows, cols, panels);
    const std::vector<std::byte> packed(panels, panels + PackedBytes(type, rows, cols));

    const ClBuffer in = test::Upload(device(), packed);
    const ClBuffer out = device().Allocate(want.size() * sizeof(std::uint16_t));
    kernels().Panels({in.get(), 0, type, rows, cols, {out.get(), 0}});
    const auto got = test::Download<std::uint16_t>(device(), out, want.size());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (Bf16ToF32(got[i]) == Bf16ToF32(F32ToBf16(want[i]))) continue;  // 0 may have either sign
      if (wrong++ == 0) {
        ADD_FAILURE() << Name(type) << " " << rows << " x " << cols << " at " << i << ": got "
                      << Bf16ToF32(got[i]) << ", want " << want[i];
      }
    }
    EXPECT_EQ(wrong, 0);
  }
};

TEST_P(PanelsTest, GivesEveryWeightRoundedToBf16) {
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kMXFP4, DType::kQ4_K,
                           DType::kQ5_K, DType::kQ6_K}) {
    const std::int64_t block = BlockElements(type);
    Check(type, 16, block);
    Check(type, 33, 3 * block);
    Check(type, 128, 1536);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PanelsTest, testing::Values(Shapes::kCpu, Shapes::kGpu),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
