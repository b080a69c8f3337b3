// ctest: opencl
// The `tandem` program on a device that has small buffers, is slow, hangs, or computes wrong
// numbers, and where copies of streamed experts fail.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/faulty_program.h"

namespace tandem::test {
namespace {

// On the device, where few cores would leave all of them on the host.
const std::string kHalfOfTheExperts = " --placement-routed-experts '{share: 0.5}'";

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

// Attention takes a few rows at a time, and a step half of what is asked for.
TEST_F(ClFaults, AStepHasTheRowsThatTheLargestBufferTakes) {
  const std::string arguments = RunArguments("device") + " --chunk 512";
  const Outcome plan = Tandem("TANDEM_CL_MAX_ALLOC=2200000",
                              "plan --model " + kDemo + " --device 0 --profile device --chunk 512");
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_NE(plan.out.find("a step has 256 rows at the most, fewer than workload.chunk"),
            std::string::npos)
      << plan.out;
  const Outcome got = Tandem("TANDEM_CL_MAX_ALLOC=2200000", arguments);
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.out, Sound("device").out);
}

// The head takes 1 MiB and the dense MLP's matrices 128 KiB: they lie in parts.
TEST_F(ClFaults, AMatrixAboveTheLargestBufferIsCut) {
  const TempFolder folder;
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
    const TempFolder cache;  // no earlier pass
    const std::string environment =
        fmt::format("XDG_CACHE_HOME={} TANDEM_CL_SKIP={}", cache.path().string(), c.kernel);
    ExpectOneErrorLine(Tandem(environment, RunArguments("hybrid") + kHalfOfTheExperts),
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
                               RunArguments("hybrid") + " --placement-prefill-experts stream");
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

}  // namespace
}  // namespace tandem::test
