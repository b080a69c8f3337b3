// ctest: opencl
// Errors of calls in a run whose steps are enqueued ahead end as in any other.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "tests/support/faulty_program.h"

namespace tandem::test {
namespace {

constexpr const char* kPatience = "TANDEM_WATCHDOG_S=20";

std::string AheadArguments(const std::string& profile) {
  return RunArguments(profile) + " --step-ahead on";
}

// The same run without faults.
const Outcome& SoundAhead(const std::string& profile) {
  static std::map<std::string, Outcome> sound;
  if (!sound.contains(profile)) {
    Tandem(kPatience, AheadArguments(profile));  // does what is done once: the self-test
    sound[profile] = Tandem(kPatience, AheadArguments(profile));
  }
  return sound[profile];
}

// With all of the model on the device, and with experts on the host.
TEST_F(ClFaults, StepsAheadGiveTheSameText) {
  for (const char* profile : {"device", "hybrid"}) {
    const Outcome& ahead = SoundAhead(profile);
    ASSERT_EQ(ahead.code, 0) << ahead.err;
    EXPECT_EQ(ahead.out, Sound(profile).out) << profile;
    // Ids are awaited without reads.
    EXPECT_LT(ahead.calls.at("clEnqueueReadBuffer"), Sound(profile).calls.at("clEnqueueReadBuffer"))
        << profile;
  }
}

struct Fault {
  const char* profile;
  const char* function;
  double share;
  int error;
};
void PrintTo(const Fault& f, std::ostream* os) {
  *os << f.profile << '_' << f.function << '_' << static_cast<int>(100 * f.share);
}

class LostAhead : public ClFaults, public ::testing::WithParamInterface<Fault> {};

TEST_P(LostAhead, IsOpenedAgainOnce) {
  const Fault& f = GetParam();
  const std::uint64_t n = CallAt(SoundAhead(f.profile), f.function, f.share);
  const Outcome once =
      Tandem(fmt::format("{} TANDEM_CL_FAULTS={}:{}:{}", kPatience, f.function, n, f.error),
             AheadArguments(f.profile));
  EXPECT_EQ(once.code, 0) << once.err;
  EXPECT_EQ(once.out, Sound(f.profile).out);
  EXPECT_NE(once.err.find("the device was lost and opened again"), std::string::npos) << once.err;
  EXPECT_FALSE(once.faults.empty());
  const Outcome always =
      Tandem(fmt::format("{} TANDEM_CL_FAULTS={}:{}+:{}", kPatience, f.function, n, f.error),
             AheadArguments(f.profile));
  ExpectOneErrorLine(always, {"the device was lost"});
}

// In layers of the present step and of the next, and where the ids are published.
INSTANTIATE_TEST_SUITE_P(Steps, LostAhead,
                         ::testing::Values(Fault{"device", "clEnqueueNDRangeKernel", 0.80, -5},
                                           Fault{"device", "clEnqueueNDRangeKernel", 0.84, -5},
                                           Fault{"device", "clEnqueueNDRangeKernel", 0.92, -5},
                                           Fault{"device", "clEnqueueMarkerWithWaitList", 0.97, -2},
                                           Fault{"hybrid", "clEnqueueNDRangeKernel", 0.80, -5},
                                           Fault{"hybrid", "clEnqueueNDRangeKernel", 0.90, -5},
                                           Fault{"hybrid", "clEnqueueMarkerWithWaitList", 0.97,
                                                 -2}),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem::test
