// ctest: unit
// Which experts may travel to a device, and what they take on the way.
#include "placement/expert_sizes.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

// Two experts of [64, 256] in one layer, each with its own formats of gate, up and down.
TensorList Experts(const std::vector<std::array<DType, 3>>& formats) {
  constexpr Part kParts[] = {Part::kGate, Part::kUp, Part::kDown};
  std::vector<TensorInfo> tensors;
  for (std::size_t e = 0; e < formats.size(); ++e) {
    for (std::size_t i = 0; i < 3; ++i) {
      TensorInfo t;
      t.name = "expert." + std::to_string(e) + "." + std::to_string(i);
      t.role = Role::kRouted;
      t.part = kParts[i];
      t.layer = 0;
      t.expert = static_cast<int>(e);
      t.dtype = formats[e][i];
      t.shape = {256, 256};
      tensors.push_back(t);
    }
  }
  return TensorList(std::move(tensors));
}

ExpertSizes Sizes(const std::vector<std::array<DType, 3>>& formats) {
  return SizesOfExperts(Experts(formats), 1);
}

constexpr DType kQ4 = DType::kQ4_K, kQ8 = DType::kQ8_0, kF16 = DType::kF16;

TEST(ExpertSizes, PanelsBecomeBf16AndRowsTravelAsTheyAre) {
  const ExpertSizes panels = Sizes({{kQ4, kQ4, kQ8}, {kQ4, kQ4, kQ8}});
  const StreamPlan packed = StreamOf(panels, /*rounds=*/true);
  EXPECT_EQ(packed.expert_bytes, 2 * 256U * 144 + 256U * 8 * 34);
  EXPECT_EQ(packed.bf16_bytes, 3U * 256 * 256 * 2);
  EXPECT_EQ(CacheOf(panels).slots, 2);
  const StreamPlan rows = StreamOf(Sizes({{kF16, kF16, kF16}}), /*rounds=*/false);
  EXPECT_EQ(rows.expert_bytes, 3U * 256 * 256 * 2);
  EXPECT_EQ(rows.bf16_bytes, 0U);
}

TEST(ExpertSizes, AnExactRunRoundsNothing) {
  EXPECT_EQ(StreamOf(Sizes({{kQ8, kQ8, kQ8}}), /*rounds=*/false).expert_bytes, 0U);
}

TEST(ExpertSizes, NothingStreamsPartlyInPanels) {
  const ExpertSizes sizes = Sizes({{kQ8, kQ8, kF16}});
  EXPECT_EQ(StreamOf(sizes, /*rounds=*/true).expert_bytes, 0U);
  EXPECT_EQ(CacheOf(sizes).slots, 1);  // which splits each matrix by itself
}

// A device's launch takes one format for every gate and up of a layer.
TEST(ExpertSizes, ExpertsOfOneLayerThatDifferStayOnTheHost) {
  for (const auto& formats : {std::vector<std::array<DType, 3>>{{kQ4, kQ4, kQ4}, {kQ8, kQ8, kQ4}},
                              std::vector<std::array<DType, 3>>{{kF16, DType::kBF16, kF16}}}) {
    const ExpertSizes sizes = Sizes(formats);
    EXPECT_EQ(StreamOf(sizes, /*rounds=*/true).expert_bytes, 0U);
    EXPECT_EQ(CacheOf(sizes).slots, 0);
  }
  EXPECT_EQ(CacheOf(Sizes({{DType::kQ2_K, DType::kQ2_K, DType::kQ2_K}})).slots, 0);
}

}  // namespace
}  // namespace tandem
