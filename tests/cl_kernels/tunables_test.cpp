// ctest: unit
// Shapes by name: which values there are, and which a device does not take.
#include "cl_kernels/tunables.h"

#include <gtest/gtest.h>

#include "memory/error.h"

namespace tandem {
namespace {

ClDeviceInfo Gpu(std::uint64_t most_items = 1024) {
  ClDeviceInfo info;
  info.name = "a card";
  info.local_mem_bytes = 49152;
  info.max_work_group_size = most_items;
  info.compute_units = 4;
  return info;
}

TEST(WithShapes, ChangesWhatItNamesAndNothingElse) {
  const cl::DeviceTraits before = cl::GpuTraits(4);
  cl::DeviceTraits want = before;
  want.teams = 4;
  want.wide_rows = 4;
  const cl::DeviceTraits got = cl::WithShapes(before, {"teams=4", "wide_rows=4"}, Gpu(), "--with");
  EXPECT_EQ(got.Options(), want.Options());
  EXPECT_EQ(cl::WithShapes(before, {"few_rows_max=17"}, Gpu(), "").few_rows_max, 17);
  EXPECT_EQ(cl::WithShapes(before, {"wgmma_products=0"}, Gpu(), "").wgmma_products, false);
  EXPECT_EQ(cl::ShapeChanges(before, got), (std::vector<std::string>{"wide_rows=4", "teams=4"}));
  EXPECT_TRUE(cl::ShapeChanges(before, before).empty());
}

TEST(WithShapes, RefusesOtherNamesAndValues) {
  for (const char* bad :
       {"", "teams", "teams=", "teams=3", "teams=8x", "few_rows_max=0", "few_rows_max=-1",
        "few_rows_max=99999999999999999999", "nv_compute=90", "group=-1", "teams=4=4"}) {
    try {
      cl::WithShapes(cl::GpuTraits(4), {bad}, Gpu(), "--with");
      ADD_FAILURE() << bad;
    } catch (const UsageError& e) {
      EXPECT_EQ(std::string(e.what()).rfind(std::string("--with ") + bad + ":", 0), 0U) << e.what();
    }
  }
}

TEST(WithShapes, RefusesWhatTheDeviceDoesNotTake) {
  const auto why = [](const cl::DeviceTraits& table, const std::vector<std::string>& changes,
                      const ClDeviceInfo& device) {
    return cl::WhyNot(cl::WithShapes(table, changes, ""), device);
  };
  const cl::DeviceTraits gpu = cl::GpuTraits(4);
  EXPECT_EQ(why(gpu, {"teams=16", "max_rows=4"}, Gpu()), "");
  EXPECT_NE(why(gpu, {"teams=16", "max_rows=4"}, Gpu(256)), "");  // 512 work-items
  EXPECT_NE(why(gpu, {"group=512"}, Gpu(256)), "");
  EXPECT_NE(why(gpu, {"teams=16"}, Gpu()), "");  // local memory
  EXPECT_NE(why(gpu, {"team=1"}, Gpu()), "");    // of 8 teams
  EXPECT_NE(why(cl::CpuTraits(4), {"teams=4"}, Gpu()), "");
  cl::DeviceTraits nvidia = gpu;
  nvidia.nv_compute = 90;
  EXPECT_EQ(why(gpu, {"team=64", "teams=4"}, Gpu()), "");
  EXPECT_NE(why(nvidia, {"team=64", "teams=4"}, Gpu()), "");
}

TEST(CheckedShapes, AFileSaysWhatIsWrongAndAVariableThrows) {
  TunedShapes shapes{{"teams=4"}, "today", "file", "", false};
  EXPECT_EQ(cl::Checked(shapes, Gpu()).changes.size(), 1U);
  EXPECT_EQ(cl::Checked(shapes, Gpu()).problem, "");
  shapes.changes = {"teams=5"};
  TunedShapes got = cl::Checked(shapes, Gpu());
  EXPECT_TRUE(got.changes.empty());
  EXPECT_NE(got.problem.find("teams is one of"), std::string::npos) << got.problem;
  shapes.forced = true;
  EXPECT_THROW(cl::Checked(shapes, Gpu()), ConfigError);
  // What another device takes is no error: a machine may have several.
  shapes.changes = {"teams=16"};
  got = cl::Checked(shapes, Gpu(256));
  EXPECT_TRUE(got.changes.empty());
  EXPECT_NE(got.problem, "");
}

}  // namespace
}  // namespace tandem
