// ctest: opencl
// An error of each call that can fail, at several places of a run: what helps is done once, and
// else the program ends with one line that names the call.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "tests/support/faulty_program.h"

namespace tandem::test {
namespace {

// An error of a call that a sound run makes, at a share of the way through its calls.
struct Planted {
  const char* profile;
  const char* function;
  double share;
  int error;
  std::vector<const char*> words;
};
void PrintTo(const Planted& p, std::ostream* os) {
  *os << p.function << '_' << static_cast<int>(100 * p.share) << '_' << p.profile << '_'
      << -p.error;
}

class PlantedFault : public ClFaults, public ::testing::WithParamInterface<Planted> {
 protected:
  void SetUp() override {
    ClFaults::SetUp();
    if (IsSkipped()) return;
    const Planted& p = GetParam();
    if (!Sound(p.profile).calls.contains(p.function)) {
      GTEST_SKIP() << "this run does not call " << p.function;
    }
    n_ = CallAt(Sound(p.profile), p.function, p.share);
  }
  Outcome Run(const char* later) const {
    const Planted& p = GetParam();
    return Tandem(fmt::format("TANDEM_WATCHDOG_S=20 TANDEM_CL_FAULTS={}:{}{}:{}", p.function, n_,
                              later, p.error),
                  RunArguments(p.profile));
  }
  void ExpectError(const Outcome& got) const {
    const Planted& p = GetParam();
    ExpectOneErrorLine(got, {p.words.begin(), p.words.end()});
    ASSERT_FALSE(got.faults.empty());
    EXPECT_EQ(got.faults.front(), fmt::format("{} {}", p.function, n_));
    EXPECT_TRUE(Sound(p.profile).out.starts_with(got.out.substr(0, got.out.find('\n'))))
        << "wrong text before the fault: " << got.out;
  }
  // The run was sound in the end, and said what had happened.
  void ExpectWarning(const Outcome& got, const std::string& warning) const {
    EXPECT_EQ(got.code, 0) << got.err;
    EXPECT_EQ(got.out, Sound(GetParam().profile).out);
    EXPECT_FALSE(got.faults.empty());
    EXPECT_NE(got.err.find("tandem: warning: "), std::string::npos) << got.err;
    for (std::string word : GetParam().words) {
      EXPECT_NE(got.err.find(word), std::string::npos) << word << " in: " << got.err;
    }
    EXPECT_NE(got.err.find(warning), std::string::npos) << got.err;
  }
  std::uint64_t n_ = 0;
};

// What neither a second plan nor a second opening helps against.
class ClFault : public PlantedFault {};
TEST_P(ClFault, EndsTheProgramWithTheCallAndTheError) {
  ExpectError(Run(""));
  ExpectError(Run("+"));  // as of a device that is gone
}

// F54: no room, once or for ever.
class NoRoom : public PlantedFault {};
TEST_P(NoRoom, IsPlannedAgainOnce) {
  ExpectWarning(Run(""), "planned again with ");
  ExpectError(Run("+"));
}

// F56: the device is lost in a step after the load, and comes back or does not.
class LostDevice : public PlantedFault {};
TEST_P(LostDevice, IsOpenedAgainOnce) {
  ExpectWarning(Run(""), "the device was lost and opened again");
  const Outcome got = Run("+");
  ExpectError(got);
  EXPECT_NE(got.err.find("the device was lost"), std::string::npos) << got.err;
}

INSTANTIATE_TEST_SUITE_P(
    F53, ClFault,
    ::testing::Values(
        Planted{"hybrid",
                "clBuildProgram",
                0,
                -11,
                {"does not compile", "CL_BUILD_PROGRAM_FAILURE", "with options '-cl-std=CL1.2"}},
        Planted{"hybrid",
                "clBuildProgram",
                1,
                -11,
                {"does not compile", "CL_BUILD_PROGRAM_FAILURE", "with options '-cl-std=CL1.2"}},
        Planted{"hybrid",
                "clCreateProgramWithSource",
                0.5,
                -6,
                {"clCreateProgramWithSource", "CL_OUT_OF_HOST_MEMORY"}},
        Planted{
            "hybrid", "clCreateKernel", 0.5, -6, {"clCreateKernel '", "CL_OUT_OF_HOST_MEMORY"}}),
    ::testing::PrintToStringParamName());

constexpr auto kNoMemory = "CL_MEM_OBJECT_ALLOCATION_FAILURE";
INSTANTIATE_TEST_SUITE_P(
    F54, NoRoom,
    ::testing::Values(
        Planted{"hybrid", "clCreateBuffer", 0, -4, {"cannot allocate", kNoMemory, "bytes"}},
        Planted{"device", "clCreateBuffer", 0.7, -4, {"cannot allocate", kNoMemory, "bytes"}}),
    ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(
    F54, ClFault,
    ::testing::Values(
        // The second plan has no room for what the profile puts there.
        Planted{
            "hybrid", "clCreateBuffer", 0.4, -4, {"cannot allocate", kNoMemory, "no plan fits"}},
        // Some drivers allocate at the first use.
        Planted{"hybrid",
                "clEnqueueFillBuffer",
                0.5,
                -4,
                {"the device's buffer '", kNoMemory, "no plan fits"}},
        Planted{
            "hybrid", "clEnqueueFillBuffer", 0.5, -5, {"the device's buffer '", "no plan fits"}},
        Planted{"hybrid", "clEnqueueMapBuffer", 0, -12, {"cannot allocate", "CL_MAP_FAILURE"}}),
    ::testing::PrintToStringParamName());

constexpr auto kNoResources = "CL_OUT_OF_RESOURCES";
INSTANTIATE_TEST_SUITE_P(
    F56, LostDevice,
    ::testing::Values(
        Planted{"hybrid", "clEnqueueNDRangeKernel", 0.7, -5, {"cannot start kernel", kNoResources}},
        Planted{"device", "clEnqueueNDRangeKernel", 0.7, -5, {"cannot start kernel", kNoResources}},
        Planted{"device",
                "clEnqueueNDRangeKernel",
                0.99,
                -36,
                {"cannot start kernel", "CL_INVALID_COMMAND_QUEUE"}},
        Planted{"hybrid", "clFlush", 0.8, -5, {kNoResources}},
        Planted{"hybrid", "clEnqueueReadBuffer", 0.8, -5, {"clEnqueueReadBuffer", kNoResources}},
        Planted{"hybrid", "clEnqueueWriteBuffer", 0.95, -5, {"clEnqueueWriteBuffer", kNoResources}},
        Planted{"device",
                "clEnqueueMarkerWithWaitList",
                0.95,
                -2,
                {"clEnqueueMarkerWithWaitList", "CL_DEVICE_NOT_AVAILABLE"}},
        Planted{"hybrid",
                "clWaitForEvents",
                0.92,
                -14,
                {"CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"}}),
    ::testing::PrintToStringParamName());
// While the kernels are tried at the load, or an error that no second opening helps against.
INSTANTIATE_TEST_SUITE_P(
    F56, ClFault,
    ::testing::Values(
        Planted{"hybrid", "clEnqueueNDRangeKernel", 0, -5, {"cannot start kernel", kNoResources}},
        Planted{"hybrid", "clGetEventInfo", 0, -5, {kNoResources}},
        Planted{"hybrid",
                "clSetKernelArg",
                0.8,
                -38,
                {"clSetKernelArg of kernel '", "CL_INVALID_MEM_OBJECT"}},
        Planted{"hybrid", "clCreateUserEvent", 0.8, -6, {"hand-over", "CL_OUT_OF_HOST_MEMORY"}}),
    ::testing::PrintToStringParamName());

TEST_F(ClFaults, ADeviceThatIsLostTwiceInOneAnswerEndsTheProgram) {
  const std::uint64_t n = CallAt(Sound("device"), "clEnqueueNDRangeKernel", 0.7);
  const Outcome got = Tandem(fmt::format("TANDEM_CL_FAULTS=clEnqueueNDRangeKernel:{}:-5,"
                                         "clEnqueueNDRangeKernel:{}:-5",
                                         n, n + 3),
                             RunArguments("device"));
  ExpectOneErrorLine(got, {"a second time", "cannot start kernel", kNoResources});
}

}  // namespace
}  // namespace tandem::test
