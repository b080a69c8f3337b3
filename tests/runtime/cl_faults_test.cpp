// ctest: opencl
// The `tandem` program on a device whose calls fail (faults.md, F52 to F57): a layer below the
// OpenCL loader, tests/support/cl_faults.cpp, returns the errors.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
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

// The same run without faults, done once: its text, and how often it calls each function. A run
// before it does what is done once on a machine: the self-test.
const Outcome& Sound(const std::string& profile) {
  static std::map<std::string, Outcome> sound;
  if (!sound.contains(profile)) {
    Tandem("", RunArguments(profile));
    sound[profile] = Tandem("", RunArguments(profile));
  }
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

// The head takes 1 MiB and the dense MLP's matrices 128 KiB: they lie in parts.
TEST_F(ClFaults, AMatrixAboveTheLargestBufferIsCut) {
  const test::TempFolder folder;
  std::ofstream(folder / "cut.yaml")
      << "placement: {attention: host, router: host, dense: device, "
         "shared_experts: host, routed_experts: host, head: device}\n"
         "workload: {chunk: 8}\n";
  const std::string arguments = RunArguments((folder / "cut.yaml").string());
  Tandem("", arguments);  // does what is done once on a machine
  const Outcome whole = Tandem("", arguments);
  EXPECT_EQ(whole.code, 0) << whole.err;
  const Outcome cut = Tandem("TANDEM_CL_MAX_ALLOC=100000", arguments);
  EXPECT_EQ(cut.code, 0) << cut.err;
  EXPECT_EQ(cut.out, whole.out);
  EXPECT_GT(cut.calls.at("clCreateBuffer"), whole.calls.at("clCreateBuffer") + 8);
}

// F58: a kernel that does nothing and says that it did.
TEST_F(ClFaults, ADeviceThatComputesWrongNumbersIsRefused) {
  struct Case {
    const char *kernel, *family;
  };
  for (const Case& c :
       {Case{"rmsnorm_f32", "'rows' (norm, F32)"}, Case{"router_f32", "'router' (choice, I32)"},
        Case{"linear_few_1", "'products' (1 rows"},
        Case{"experts_down_few", "'experts' (5 rows"}}) {
    const test::TempFolder cache;  // no earlier pass
    const std::string environment =
        fmt::format("XDG_CACHE_HOME={} TANDEM_CL_SKIP={}", cache.path().string(), c.kernel);
    ExpectOneErrorLine(Tandem(environment, RunArguments("hybrid")),
                       {"computes wrong numbers", c.family, name_, "doctor --gpu"});
  }
}

TEST_F(ClFaults, ASlowDeviceIsNotALostOne) {
  const Outcome got =
      Tandem("TANDEM_CL_FAULTS=clEnqueueMarkerWithWaitList:1:hang=1", RunArguments("hybrid"));
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.faults, std::vector<std::string>{"clEnqueueMarkerWithWaitList 1"});
  EXPECT_EQ(got.out, Sound("hybrid").out);
}

// The number of the call that comes at a share of the way through a sound run.
std::uint64_t CallAt(const Outcome& sound, const char* function, double share) {
  const auto calls = static_cast<double>(sound.calls.at(function));
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(share * calls));
}

// F57: a kernel that never ends. Nothing that waits for the queue may be called any more, so the
// program must end by itself, and soon.
TEST_F(ClFaults, AKernelThatNeverEndsEndsTheProgram) {
  for (const std::string profile : {"hybrid", "device"}) {
    for (const double share : {0.1, 0.6, 0.95}) {
      const std::uint64_t n = CallAt(Sound(profile), "clEnqueueNDRangeKernel", share);
      const Outcome got = Tandem(
          fmt::format("TANDEM_WATCHDOG_S=3 TANDEM_CL_FAULTS=clEnqueueNDRangeKernel:{}:never", n),
          RunArguments(profile));
      ExpectOneErrorLine(got, {name_.c_str(), " 3 s", "step of ", "hangs"});
    }
  }
}

TEST_F(ClFaults, TheWatchdogIsSecondsOrRefused) {
  const Outcome got = Tandem("TANDEM_WATCHDOG_S=soon", RunArguments("device"));
  EXPECT_EQ(got.code, 78) << got.err;
  EXPECT_NE(got.err.find("TANDEM_WATCHDOG_S: expected seconds above 0, found 'soon'"),
            std::string::npos)
      << got.err;
}

// The same while loading: a copy of weights, a first touch of a buffer, a map of pinned memory.
TEST_F(ClFaults, ALoadThatNeverEndsEndsTheProgram) {
  for (const std::string function :
       {"clEnqueueWriteBuffer", "clEnqueueFillBuffer", "clEnqueueMapBuffer"}) {
    const Outcome got = Tandem("TANDEM_WATCHDOG_S=3 TANDEM_CL_FAULTS=" + function + ":2:never",
                               RunArguments("hybrid"));
    ExpectOneErrorLine(got, {name_, " 3 s", "the load did not end", "hangs"});
    EXPECT_EQ(got.faults, std::vector{function + " 2"});
  }
}

// Copies to the device in a queue of their own, beside steps: experts that stream in prefill.
std::string StreamArguments(const std::string& memory) {
  std::string prompt;
  for (int i = 0; i < 40; ++i) prompt += "to be or not ";  // many steps that stream
  return fmt::format(
      "run --model {} --device 0 --profile hybrid --placement-prefill-experts stream "
      "--placement-stream-memory {} --chunk 32 --prompt \"{}\" --max-tokens 4 --temperature 0 -q",
      kDemo, memory, prompt);
}

TEST_F(ClFaults, StreamingGoesOnAfterACopyThatFailed) {
  for (const std::string memory : {"ring", "locked"}) {
    SCOPED_TRACE(memory);
    const std::string arguments = StreamArguments(memory);
    Tandem("", arguments);
    const Outcome sound = Tandem("", arguments);
    ASSERT_EQ(sound.code, 0) << sound.err;
    ASSERT_GT(sound.calls.at("clEnqueueWriteBuffer"),
              Sound("hybrid").calls.at("clEnqueueWriteBuffer") + 40);
    const std::uint64_t n = CallAt(sound, "clEnqueueWriteBuffer", 0.8);
    const Outcome got =
        Tandem(fmt::format("TANDEM_CL_FAULTS=clEnqueueWriteBuffer:{}:-5", n), arguments);
    EXPECT_EQ(got.code, 0) << got.err;
    EXPECT_EQ(got.out, sound.out);
    EXPECT_EQ(got.faults.size(), 1U);
    EXPECT_NE(got.err.find("of a streamed expert"), std::string::npos) << got.err;
    EXPECT_NE(got.err.find("the device was lost and opened again"), std::string::npos) << got.err;
  }
}

// Memory that the driver does not lock: by the ring, unless the profile demands it. Buffers over
// memory of the host are the last that a load makes.
TEST_F(ClFaults, StreamingWithoutLockedMemory) {
  const Outcome sound = Tandem("", StreamArguments("locked"));
  const std::uint64_t n = sound.calls.at("clCreateBuffer");
  const std::string fault = fmt::format("TANDEM_CL_FAULTS=clCreateBuffer:{}:-37+", n - 1);
  ExpectOneErrorLine(Tandem(fault, StreamArguments("locked")), {"placement.stream_memory", "ring"});
  const Outcome got = Tandem(fault, StreamArguments("auto"));
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.out, sound.out);
}

// What was copied into waits for a copy that never ends; its queue is given up, too.
TEST_F(ClFaults, StreamingEndsWithACopyThatNeverEnds) {
  const Outcome sound = Tandem("", StreamArguments("locked"));
  const std::uint64_t n = CallAt(sound, "clEnqueueWriteBuffer", 0.8);
  const Outcome got =
      Tandem(fmt::format("TANDEM_WATCHDOG_S=3 TANDEM_CL_FAULTS=clEnqueueWriteBuffer:{}:never", n),
             StreamArguments("locked"));
  ExpectOneErrorLine(got, {name_, " 3 s", "step of ", "hangs"});
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
}  // namespace tandem
