#pragma once

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

// The `tandem` program on a device whose calls fail (faults.md, F52 to F57): a layer below the
// OpenCL loader, tests/support/cl_faults.cpp, returns the errors.
namespace tandem::test {

inline const std::string kDemo = TANDEM_SOURCE_DIR "/model/demo";

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
  std::vector<std::string> faults;             // "clFinish 3", as they happened
  std::map<std::string, std::uint64_t> calls;  // of a process that came to its end
};

inline Outcome Tandem(const std::string& environment, const std::string& arguments) {
  const TempFolder folder;
  const std::string at = folder.path().string();
  const std::string command = fmt::format(
      "OPENCL_LAYERS={} TANDEM_CL_FAULTS_LOG={}/log {} timeout 120 {} {} </dev/null >{}/out "
      "2>{}/err",
      TANDEM_CL_FAULTS_LAYER, at, environment, TANDEM_BINARY, arguments, at, at);
  const int status = std::system(command.c_str());
  Outcome got{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
              ReadText(folder / "out"),
              ReadText(folder / "err"),
              {},
              {}};
  std::istringstream log(ReadText(folder / "log"));
  std::string kind, function;
  for (std::uint64_t n = 0; log >> kind >> function >> n;) {
    if (kind == "fault") got.faults.push_back(fmt::format("{} {}", function, n));
    if (kind == "calls") got.calls[function] = n;
  }
  return got;
}

inline std::string RunArguments(const std::string& profile) {
  return fmt::format(
      "run --model {} --device 0 --profile {} --prompt \"To be\" --max-tokens 8 --temperature 0 -q",
      kDemo, profile);
}

// The same run without faults, done once: its text, and how often it calls each function. A run
// before it does what is done once on a machine: the self-test.
inline const Outcome& Sound(const std::string& profile) {
  static std::map<std::string, Outcome> sound;
  if (!sound.contains(profile)) {
    Tandem("", RunArguments(profile));
    sound[profile] = Tandem("", RunArguments(profile));
  }
  return sound[profile];
}

inline void ExpectOneErrorLine(const Outcome& got, const std::vector<std::string>& words) {
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

// The number of the call that comes at a share of the way through a sound run.
inline std::uint64_t CallAt(const Outcome& sound, const char* function, double share) {
  const auto calls = static_cast<double>(sound.calls.at(function));
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(share * calls));
}

}  // namespace tandem::test
