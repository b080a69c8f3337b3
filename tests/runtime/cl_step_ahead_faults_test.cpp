// ctest: opencl
// Errors of calls in a run whose steps are enqueued ahead end as in any other.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/faulty_program.h"

namespace tandem::test {
namespace {

constexpr const char* kPatience = "TANDEM_WATCHDOG_S=20";

std::string AheadArguments() { return RunArguments("device") + " --step-ahead on"; }

// The same run without faults.
const Outcome& SoundAhead() {
  static const Outcome sound = [] {
    Tandem(kPatience, AheadArguments());  // does what is done once: the self-test
    return Tandem(kPatience, AheadArguments());
  }();
  return sound;
}

TEST_F(ClFaults, StepsAheadGiveTheSameText) {
  ASSERT_EQ(SoundAhead().code, 0) << SoundAhead().err;
  EXPECT_EQ(SoundAhead().out, Sound("device").out);
  // Ids are awaited without reads.
  EXPECT_LT(SoundAhead().calls.at("clEnqueueReadBuffer"),
            Sound("device").calls.at("clEnqueueReadBuffer"));
}

struct Fault {
  const char* function;
  double share;
  int error;
};
void PrintTo(const Fault& f, std::ostream* os) {
  *os << f.function << '_' << static_cast<int>(100 * f.share);
}

class LostAhead : public ClFaults, public ::testing::WithParamInterface<Fault> {};

TEST_P(LostAhead, IsOpenedAgainOnce) {
  const Fault& f = GetParam();
  const std::uint64_t n = CallAt(SoundAhead(), f.function, f.share);
  const Outcome once =
      Tandem(fmt::format("{} TANDEM_CL_FAULTS={}:{}:{}", kPatience, f.function, n, f.error),
             AheadArguments());
  EXPECT_EQ(once.code, 0) << once.err;
  EXPECT_EQ(once.out, Sound("device").out);
  EXPECT_NE(once.err.find("the device was lost and opened again"), std::string::npos) << once.err;
  EXPECT_FALSE(once.faults.empty());
  const Outcome always =
      Tandem(fmt::format("{} TANDEM_CL_FAULTS={}:{}+:{}", kPatience, f.function, n, f.error),
             AheadArguments());
  ExpectOneErrorLine(always, {"the device was lost"});
}

// In layers of the present step and of the next, and where the ids are published.
INSTANTIATE_TEST_SUITE_P(Steps, LostAhead,
                         ::testing::Values(Fault{"clEnqueueNDRangeKernel", 0.80, -5},
                                           Fault{"clEnqueueNDRangeKernel", 0.84, -5},
                                           Fault{"clEnqueueNDRangeKernel", 0.92, -5},
                                           Fault{"clEnqueueMarkerWithWaitList", 0.97, -2}),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem::test
