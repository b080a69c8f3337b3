// ctest: opencl
// MLA on the device where steps mix rows of the expanded and of the absorbed form, against the
// absorbed form alone.
#include <gtest/gtest.h>

#include <algorithm>

#include "cl_kernels/device_traits.h"
#include "memory/cl_device.h"
#include "model/open_model.h"
#include "placement/attention_scratch.h"
#include "placement/planner.h"
#include "runtime/abilities.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

Engine WithExpanded(bool expanded) {
  Model model = OpenModel(GoldenDir("v2-lite"));
  Profile profile = Placement("device");
  profile.activation_type = DType::kF32;
  Plan plan =
      MakePlan(model.config, model.tensors, ReadMachine(ProbeDevices::kYes), profile,
               {.precision = Precision::kExact, .statistics = nullptr, .abilities = kAbilities});
  plan.bf16_many_rows = expanded;  // which without matrix units rounds nothing
  return Engine(std::move(model), std::move(plan));
}

std::vector<float> Logits(Engine& engine, const std::vector<std::vector<std::int64_t>>& steps) {
  const std::int32_t sequences[] = {engine.NewSequence(), engine.NewSequence()};
  std::int64_t positions[] = {0, 0};
  std::vector<float> logits;
  for (const std::vector<std::int64_t>& step : steps) {
    std::vector<Row> rows;
    for (std::size_t i = 0; i < step.size(); ++i) {
      for (std::int64_t j = 0; j < step[i]; ++j) {
        const std::int64_t at = positions[i]++;
        rows.push_back({sequences[i], static_cast<std::int32_t>(at),
                        static_cast<std::int32_t>((at * 37 + 5 + 11 * static_cast<int>(i)) % 250),
                        j >= step[i] - 3});
      }
    }
    const auto out = engine.Step(rows);
    logits.insert(logits.end(), out.begin(), out.end());
  }
  return logits;
}

TEST(MlaDevice, StepsMixBothForms) {
  const ClProbe probe = ProbeClDevices();
  if (probe.devices.empty()) GTEST_SKIP() << "no OpenCL device";
  if (cl::TraitsOf(ClDevice(probe.devices.front())).nv_compute >= 80) {
    GTEST_SKIP() << "bf16 may choose other experts; mla_expanded_test has its forms";
  }
  Engine expanded = WithExpanded(true);
  const std::int64_t least = LeastExpandedRows(expanded.config());
  ASSERT_LE(least + 30, expanded.plan().max_rows);
  // Both forms in a step, keys of earlier steps, two sequences of the expanded form.
  const std::vector<std::vector<std::int64_t>> steps = {
      {least, 20}, {least + 9, least - 1}, {5, least}, {least + 1, least + 2}};
  const std::vector<float> got = Logits(expanded, steps);
  Engine absorbed = WithExpanded(false);
  const std::vector<float> want = Logits(absorbed, steps);
  ASSERT_EQ(got.size(), want.size());
  const Difference worst = WorstDifference(got, want);
  EXPECT_LE(worst.difference, 1e-3F) << worst;
  EXPECT_GT(worst.difference, 0.0F) << "the expanded form did not run";
}

}  // namespace
}  // namespace tandem::test
