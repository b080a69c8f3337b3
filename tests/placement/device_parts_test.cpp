// ctest: unit
#include "placement/device_parts.h"

#include <gtest/gtest.h>

#include "memory/split_layout.h"
#include "placement/model_sizes.h"

namespace tandem {
namespace {

TensorInfo Make(DType type, std::int64_t rows, std::int64_t cols, Role role, Part part) {
  TensorInfo t;
  t.name = "matrix";
  t.shape = {rows, cols};
  t.dtype = type;
  t.role = role;
  t.part = part;
  t.has_scale = type == DType::kF8E4M3;
  t.data.bytes = DataBytes(type, rows * cols);
  if (t.has_scale) t.scale.bytes = t.scale_rows() * t.scale_cols() * sizeof(float);
  return t;
}

constexpr DType kTypes[] = {DType::kF32,  DType::kBF16, DType::kF8E4M3, DType::kQ8_0,
                            DType::kQ4_0, DType::kQ5_0, DType::kMXFP4,  DType::kQ4_K,
                            DType::kQ5_K, DType::kQ6_K};

// What goes over the rows of each part in turn, as loading does.
void CheckParts(const TensorInfo& t, std::uint64_t most) {
  const std::int64_t step = RowsOfPart(t, most);
  std::uint64_t bytes = 0;
  std::int64_t parts = 0;
  for (std::int64_t row = 0; row < t.rows(); row += step, ++parts) {
    const DeviceSizes sizes = SizesOnDevice(t, std::min(step, t.rows() - row));
    EXPECT_LE(sizes.bytes(), most) << Name(t.dtype) << " part at row " << row;
    bytes += sizes.bytes();
  }
  EXPECT_EQ(BytesOnDevice(t, most), bytes) << Name(t.dtype);
  EXPECT_TRUE(parts == 1 || step % kPartRows == 0) << step;
  // With a part less they would not fit, but for what rounding adds to each.
  if (parts == 1) return;
  const std::uint64_t whole = SizesOnDevice(t, t.rows()).bytes();
  const std::uint64_t rounding = SizesOnDevice(t, kPartRows).bytes() + 2 * kDeviceAlign;
  EXPECT_GT(whole + parts * rounding, static_cast<std::uint64_t>(parts - 1) * most);
}

TEST(DeviceParts, FitAndCoverAllRows) {
  for (const DType type : kTypes) {
    for (const std::int64_t rows : {129, 1000, 2048, 7168}) {
      const TensorInfo t = Make(type, rows, 1280, Role::kHead, Part::kLmHead);
      const std::uint64_t least = LeastBuffer(t);
      EXPECT_EQ(least, SizesOnDevice(t, kPartRows).bytes());
      for (const std::uint64_t most :
           {least, least + 1, 2 * least + 300, 5 * least, 1000 * least}) {
        CheckParts(t, most);
      }
    }
  }
}

TEST(DeviceParts, AreOneWhereTheMatrixFits) {
  const TensorInfo t = Make(DType::kF8E4M3, 1000, 1280, Role::kDense, Part::kUp);
  const std::uint64_t whole = SizesOnDevice(t, 1000).bytes();
  EXPECT_EQ(RowsOfPart(t, whole), 1000);
  EXPECT_EQ(BytesOnDevice(t, whole), whole);
  EXPECT_EQ(RowsOfPart(t, whole - 1), 512);
}

TEST(DeviceParts, OfHeadsAndExpertsThereAreNone) {
  for (const TensorInfo& t : {Make(DType::kBF16, 4096, 512, Role::kAttention, Part::kKvB),
                              Make(DType::kBF16, 4096, 512, Role::kAttention, Part::kKB),
                              Make(DType::kBF16, 4096, 512, Role::kAttention, Part::kVB),
                              Make(DType::kBF16, 4096, 512, Role::kRouted, Part::kGate)}) {
    EXPECT_FALSE(MayBeSplit(t));
    EXPECT_EQ(RowsOfPart(t, 1 << 20), 4096);
    EXPECT_EQ(LeastBuffer(t), std::uint64_t{4096} * 512 * 2);
  }
}

TEST(DeviceParts, UnitsCountThemForEveryLargestBuffer) {
  const TensorInfo o = Make(DType::kF8E4M3, 896, 1100, Role::kAttention, Part::kO);
  const TensorInfo kv_b = Make(DType::kF8E4M3, 1024, 512, Role::kAttention, Part::kKvB);
  Unit unit;
  unit.Add(o);
  unit.Add(kv_b);
  EXPECT_EQ(unit.DeviceBytes(UINT64_MAX), unit.device_bytes);
  EXPECT_EQ(unit.least, &kv_b);
  EXPECT_EQ(unit.least_buffer, std::uint64_t{1024} * 512 + 256);
  const std::uint64_t most = 660000;  // four blocks of 128 rows, not five
  EXPECT_EQ(unit.DeviceBytes(most),
            BytesOnDevice(o, most) + SizesOnDevice(kv_b, kv_b.rows()).bytes());
  EXPECT_EQ(unit.DeviceBytes(most), unit.device_bytes + 256);  // scales, rounded up twice
}

}  // namespace
}  // namespace tandem
