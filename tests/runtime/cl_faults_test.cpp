// ctest: opencl
// The `tandem` program on a device whose calls fail (faults.md, F52 to F55): a layer below the
// OpenCL loader, tests/support/cl_faults.cpp, returns the errors.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "memory/cl_device.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

const std::string kDemo = TANDEM_SOURCE_DIR "/model/demo";

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
  std::vector<std::string> faults;             // "clFinish 3", as they happened
  std::map<std::string, std::uint64_t> calls;  // of a process that came to its end
};

Outcome Tandem(const std::string& environment, const std::string& arguments) {
  const test::TempFolder folder;
  const std::string at = folder.path().string();
  const std::string command = fmt::format(
      "OPENCL_LAYERS={} TANDEM_CL_FAULTS_LOG={}/log {} timeout 120 {} {} </dev/null >{}/out "
      "2>{}/err",
      TANDEM_CL_FAULTS_LAYER, at, environment, TANDEM_BINARY, arguments, at, at);
  const int status = std::system(command.c_str());
  Outcome got{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
              test::ReadText(folder / "out"),
              test::ReadText(folder / "err"),
              {},
              {}};
  std::istringstream log(test::ReadText(folder / "log"));
  std::string kind, function;
  for (std::uint64_t n = 0; log >> kind >> function >> n;) {
    if (kind == "fault") got.faults.push_back(fmt::format("{} {}", function, n));
    if (kind == "calls") got.calls[function] = n;
  }
  return got;
}

std::string RunArguments(const std::string& profile) {
  return fmt::format(
      "run --model {} --device 0 --profile {} --prompt \"To be\" --max-tokens 8 --temperature 0 -q",
      kDemo, profile);
}

// The same run without faults, done once: its text, and how often it calls each function.
const Outcome& Sound(const std::string& profile) {
  static std::map<std::string, Outcome> sound;
  if (!sound.contains(profile)) sound[profile] = Tandem("", RunArguments(profile));
  return sound[profile];
}

void ExpectOneErrorLine(const Outcome& got, const std::vector<std::string>& words) {
  EXPECT_EQ(got.code, 69) << got.err;
  const std::string begin = "tandem: error: ";
  const std::size_t first = got.err.find(begin);
  ASSERT_NE(first, std::string::npos) << got.err;
  EXPECT_EQ(got.err.find(begin, first + 1), std::string::npos) << got.err;
  for (const std::string& word : words) {
    EXPECT_NE(got.err.find(word, first), std::string::npos) << word << " in: " << got.err;
  }
}

class ClFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    const ClProbe probe = ProbeClDevices();
    if (probe.devices.empty()) GTEST_SKIP() << "no OpenCL device: " << probe.problem;
    name_ = probe.devices.front().name;
    if (Sound("hybrid").calls.empty()) GTEST_SKIP() << "this OpenCL loader loads no layers";
    ASSERT_EQ(Sound("hybrid").code, 0) << Sound("hybrid").err;
  }
  std::string name_;
};

TEST_F(ClFaults, TheLayerAloneChangesNothing) {
  for (const std::string profile : {"hybrid", "device"}) {
    const Outcome& sound = Sound(profile);
    EXPECT_EQ(sound.code, 0) << sound.err;
    EXPECT_EQ(sound.out, Sound("hybrid").out) << profile;
    EXPECT_TRUE(sound.faults.empty());
    EXPECT_GT(sound.calls.at("clEnqueueNDRangeKernel"), 8U * 5);  // tokens, layers
  }
}

TEST_F(ClFaults, AFaultThatIsNotUnderstoodIsRefused) {
  for (const std::string bad : {"clFinish", "clFinish:0:-5", "clNone:1:-5", "clFinish:1:0"}) {
    const Outcome got = Tandem("TANDEM_CL_FAULTS=" + bad, "devices");
    EXPECT_NE(got.err.find("'" + bad + "' is not"), std::string::npos) << got.err;
  }
}

// F52: the list of devices fails. The number is counted in the process that probes.
TEST_F(ClFaults, WithoutADeviceTheProgramEndsUnlessItWasToRunOnTheCpu) {
  struct Case {
    const char *fault, *word;
  };
  for (const Case& c : {Case{"clGetPlatformIDs:1+:-1001", "no OpenCL platform is installed"},
                        Case{"clGetPlatformIDs:1+:-6", "CL_OUT_OF_HOST_MEMORY"},
                        Case{"clGetDeviceIDs:1+:-1", "none has a device"},
                        Case{"clGetDeviceIDs:1+:-5", "CL_OUT_OF_RESOURCES"}}) {
    const std::string faults = fmt::format("TANDEM_CL_FAULTS={}", c.fault);
    const Outcome got = Tandem(faults, RunArguments("hybrid"));
    ExpectOneErrorLine(got, {"device '0' is not there", c.word, "'none' runs on the CPU"});
    EXPECT_FALSE(got.faults.empty()) << c.fault;
    const Outcome on_cpu =
        Tandem(faults, "run --model " + kDemo + " --device none -p \"To be\" -n 2 -q");
    EXPECT_EQ(on_cpu.code, 0) << c.fault << ": " << on_cpu.err;
  }
}

TEST_F(ClFaults, ADeviceThatCannotBeOpenedIsNamed) {
  for (const std::string function : {"clCreateContext", "clCreateCommandQueue"}) {
    const Outcome got = Tandem("TANDEM_CL_FAULTS=" + function + ":1:-6", RunArguments("hybrid"));
    ExpectOneErrorLine(got, {function, "CL_OUT_OF_HOST_MEMORY", name_});
    EXPECT_EQ(got.faults, std::vector{function + " 1"});
  }
}

// F55: no buffer is larger than the device allows, or the plan says so with a way out.
TEST_F(ClFaults, ThePlanKeepsToTheLargestBuffer) {
  const Outcome enough = Tandem("TANDEM_CL_MAX_ALLOC=4000000", RunArguments("device"));
  EXPECT_EQ(enough.code, 0) << enough.err;
  EXPECT_EQ(enough.out, Sound("device").out);
  const Outcome little = Tandem("TANDEM_CL_MAX_ALLOC=1000000", RunArguments("device"));
  ExpectOneErrorLine(little, {"buffer", "976.56 KiB", name_, "nearest plans that fit"});
}

TEST_F(ClFaults, ASlowDeviceIsNotALostOne) {
  const Outcome got = Tandem("TANDEM_CL_FAULTS=clFinish:3:hang=1", RunArguments("hybrid"));
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.faults, std::vector<std::string>{"clFinish 3"});
  EXPECT_EQ(got.out, Sound("hybrid").out);
}

// An error of a call that a sound run makes, at a share of the way through its calls.
struct Planted {
  const char* profile;
  const char* function;
  double share;
  int error;
  std::vector<const char*> words;
};
void PrintTo(const Planted& p, std::ostream* os) {
  *os << p.function << '_' << static_cast<int>(100 * p.share) << '_' << p.profile;
}

class ClFault : public ClFaults, public ::testing::WithParamInterface<Planted> {};

TEST_P(ClFault, EndsTheProgramWithTheCallAndTheError) {
  const Planted& p = GetParam();
  const auto& calls = Sound(p.profile).calls;
  if (!calls.contains(p.function)) GTEST_SKIP() << "this run does not call " << p.function;
  const auto n = std::max<std::uint64_t>(
      1, static_cast<std::uint64_t>(p.share * static_cast<double>(calls.at(p.function))));
  for (const char* later : {"", "+"}) {  // once, and as a device that is gone
    const Outcome got =
        Tandem(fmt::format("TANDEM_CL_FAULTS={}:{}{}:{}", p.function, n, later, p.error),
               RunArguments(p.profile));
    ExpectOneErrorLine(got, {p.words.begin(), p.words.end()});
    ASSERT_FALSE(got.faults.empty());
    EXPECT_EQ(got.faults.front(), fmt::format("{} {}", p.function, n));
    EXPECT_TRUE(Sound(p.profile).out.starts_with(got.out.substr(0, got.out.find('\n'))))
        << "wrong text before the fault: " << got.out;
  }
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
                {"clCreateProgramWithSource", "CL_OUT_OF_HOST_MEMORY"}}),
    ::testing::PrintToStringParamName());

constexpr auto kNoMemory = "CL_MEM_OBJECT_ALLOCATION_FAILURE";
INSTANTIATE_TEST_SUITE_P(
    F54, ClFault,
    ::testing::Values(
        Planted{"hybrid", "clCreateBuffer", 0, -4, {"cannot allocate", kNoMemory, "bytes"}},
        Planted{"hybrid", "clCreateBuffer", 0.5, -4, {"cannot allocate", kNoMemory, "bytes"}},
        Planted{"hybrid", "clCreateBuffer", 1, -4, {"cannot allocate", kNoMemory, "bytes"}},
        Planted{"device", "clCreateBuffer", 0.7, -4, {"cannot allocate", kNoMemory, "bytes"}},
        Planted{"hybrid", "clEnqueueMapBuffer", 0, -12, {"cannot allocate", "CL_MAP_FAILURE"}},
        // Some drivers allocate at the first use.
        Planted{"hybrid", "clEnqueueWriteBuffer", 0, -4, {"clEnqueueWriteBuffer", kNoMemory}}),
    ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
