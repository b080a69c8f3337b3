// ctest: unit
// The number format of the KV cache: its bytes, and which ones a model and a placement take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "invented.h"
#include "memory/error.h"
#include "placement/model_sizes.h"
#include "placement/planner.h"
#include "tests/support/expect_error.h"

namespace tandem {
namespace {

using test::ExpectError;
using test::kGiB;

constexpr DType kEightBits[] = {DType::kQ8_0, DType::kF8E4M3};

Plan PlanV2Lite(const Machine& machine, const Profile& profile) {
  static const TensorList tensors = ExpectedTensors(test::V2Lite(), DType::kBF16);
  return MakePlan(test::V2Lite(), tensors, machine, profile, Precision::kFast);
}

void ExpectRefused(const Config& config, DType type,
                   std::initializer_list<std::string_view> words) {
  Profile profile;
  profile.kv_type = type;
  const TensorList tensors = ExpectedTensors(config, DType::kBF16);
  ExpectError<ConfigError>(ExitCode::kConfig, words, [&] {
    MakePlan(config, tensors, test::CpuMachine(1, 2, 64 * kGiB), profile, Precision::kFast);
  });
}

TEST(KvType, BytesOfATokenOfV3) {
  const Config v3 = test::V3();
  EXPECT_EQ(KvTokenBytes(v3, DType::kF32), 2304U);
  EXPECT_EQ(KvTokenBytes(v3, DType::kBF16), 1152U);
  EXPECT_EQ(KvTokenBytes(v3, DType::kF16), 1152U);
  EXPECT_EQ(KvTokenBytes(v3, DType::kQ8_0), 576U / 32 * 34);
  EXPECT_EQ(KvTokenBytes(v3, DType::kF8E4M3), 656U);  // DeepSeek-V3.2's token
  EXPECT_EQ(KvLayerBytes(v3, 3, DType::kF8E4M3), 3U * 64 * 656);
}

TEST(KvType, Q8IsPlannedOnTheHostAndFp8AnywhereAndBothSurviveAPlanFile) {
  for (const DType type : kEightBits) {
    Profile profile;
    profile.kv_type = type;
    const Plan plan = PlanV2Lite(test::GpuMachine(24), profile);
    EXPECT_EQ(plan.kv_type, type);
    const Place place = plan.layers[0].attention;
    EXPECT_EQ(place.on_device(), type == DType::kF8E4M3);
    EXPECT_EQ(ParsePlan(ToJson(plan), "plan.json").kv_type, type);
    const auto blocks = static_cast<std::uint64_t>(plan.kv_blocks);
    EXPECT_EQ(test::BytesOfItem(plan, "KV cache", place),
              27U * blocks * 64 * KvTokenBytes(test::V2Lite(), type));
  }
}

TEST(KvType, AttentionOnADeviceRefusesQ8) {
  Profile profile;
  profile.kv_type = DType::kQ8_0;
  profile.attention = Side::kDevice;
  ExpectError<ConfigError>(ExitCode::kConfig, {"'kv.type'", "on the host", "bf16"},
                           [&] { PlanV2Lite(test::GpuMachine(24), profile); });
}

TEST(KvType, ModelsWithoutWholeBlocksRefuseThem) {
  Config mha = test::Tiny();
  mha.attention = AttentionKind::kMha;
  mha.model_type = "deepseek";
  for (const DType type : kEightBits) ExpectRefused(mha, type, {"'kv.type'", "MLA", "f16"});
  ExpectRefused(test::Tiny(), DType::kF8E4M3, {"'kv.type'", "f8", "128"});  // R = 36
  ExpectRefused(test::Tiny(), DType::kQ8_0, {"'kv.type'", "q8_0", "32"});
  ExpectRefused(test::V2Lite(), DType::kQ4_K, {"'kv.type'", "found Q4_K"});
}

}  // namespace
}  // namespace tandem
