// ctest: opencl
#include "memory/cl_device.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "memory/error.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// Runs ProbeClDevices in a process of its own, whose loader reads another list of drivers, and ends
// with 0 if there is no device and the problem holds `word`.
class BadDriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem-icd-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { fs::remove_all(directory_); }

  // A shared library whose constructor runs `body`, listed as a driver.
  bool InstallDriver(const std::string& body) {
    std::ofstream(directory_ / "bad.c")
        << "#include <stdlib.h>\n#include <unistd.h>\n"
        << "__attribute__((constructor)) static void start(void) {" << body << "}\n";
    const std::string command = "cc -shared -fPIC -o " + (directory_ / "libbad.so").string() + " " +
                                (directory_ / "bad.c").string() + " > /dev/null 2>&1";
    if (std::system(command.c_str()) != 0) return false;
    std::ofstream(directory_ / "bad.icd") << (directory_ / "libbad.so").string() << "\n";
    return true;
  }

  ::testing::AssertionResult ProbeSays(const std::string& word) const {
    const pid_t child = fork();
    if (child == 0) {
      // Both loaders in use: ocl-icd wants the slash at the end, Khronos's takes either.
      setenv("OCL_ICD_VENDORS", (directory_.string() + "/").c_str(), 1);
      unsetenv("OCL_ICD_FILENAMES");  // some systems name further drivers here
      const ClProbe probe = ProbeClDevices();
      const bool right = probe.devices.empty() && probe.problem.find(word) != std::string::npos;
      if (!right) fprintf(stderr, "problem: %s\n", probe.problem.c_str());
      _exit(right ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "status " << status << ", expected '" << word << "'";
  }
  fs::path directory_;
};

// F52: drivers that are missing, broken, crash or hang.
TEST_F(BadDriverTest, NoDriver) { EXPECT_TRUE(ProbeSays("no OpenCL platform")); }

TEST_F(BadDriverTest, MissingLibrary) {
  std::ofstream(directory_ / "bad.icd") << "/nonexistent/libnone.so\n";
  EXPECT_TRUE(ProbeSays("no OpenCL platform"));
}

TEST_F(BadDriverTest, NotALibrary) {
  std::ofstream(directory_ / "libbad.so") << "not a library";
  std::ofstream(directory_ / "bad.icd") << (directory_ / "libbad.so").string() << "\n";
  EXPECT_TRUE(ProbeSays("no OpenCL platform"));
}

TEST_F(BadDriverTest, DriverAborts) {
  if (!InstallDriver("abort();")) GTEST_SKIP() << "no C compiler";
  EXPECT_TRUE(ProbeSays("crashed"));
}

TEST_F(BadDriverTest, DriverExits) {
  if (!InstallDriver("_exit(3);")) GTEST_SKIP() << "no C compiler";
  EXPECT_TRUE(ProbeSays("status 3"));
}

TEST_F(BadDriverTest, DriverHangs) {
  if (!InstallDriver("for (;;) sleep(60);")) GTEST_SKIP() << "no C compiler";
  EXPECT_TRUE(ProbeSays("hung"));
}

class ClDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const ClProbe probe = ProbeClDevices();
    if (probe.devices.empty()) GTEST_SKIP() << "no OpenCL device: " << probe.problem;
    info_ = probe.devices.front();
  }
  ClDeviceInfo info_;
};

TEST_F(ClDeviceTest, ProbeTellsWhatTheDeviceIs) {
  EXPECT_EQ(info_.index, 0);
  EXPECT_FALSE(info_.name.empty());
  EXPECT_FALSE(info_.platform_version.empty());
  EXPECT_FALSE(info_.driver_version.empty());
  EXPECT_TRUE(info_.device_version.starts_with("OpenCL ")) << info_.device_version;
  EXPECT_GE(info_.global_mem_bytes, info_.max_alloc_bytes);
  EXPECT_GE(info_.max_alloc_bytes, 128U << 20);  // the least that OpenCL 1.2 allows
  EXPECT_GE(info_.local_mem_bytes, 32U << 10);
  EXPECT_GE(info_.compute_units, 1U);
  EXPECT_GE(info_.max_work_group_size, 1U);
}

TEST_F(ClDeviceTest, ProbeAfterOpeningRepeatsTheList) {
  const ClDevice device(info_);
  const ClProbe again = ProbeClDevices();
  ASSERT_FALSE(again.devices.empty());
  EXPECT_EQ(again.devices.front().name, info_.name);
}

TEST_F(ClDeviceTest, WritesZeroesCopiesAndReads) {
  const ClDevice device(info_);
  std::vector<std::int32_t> values(1000);
  std::iota(values.begin(), values.end(), 1);
  const ClBuffer a = device.Allocate(4000);
  const ClBuffer b = device.Allocate(4000);
  EXPECT_EQ(a.bytes(), 4000U);
  device.Write(a.get(), 0, values.data(), 4000);
  device.Zero(b.get(), 0, 4000);
  device.Copy(a.get(), 400, b.get(), 800, 1200);
  device.Zero(b.get(), 1600, 40);
  device.Flush();
  device.Finish();
  std::vector<std::int32_t> got(1000);
  device.BlockingRead(b.get(), 0, got.data(), 4000);
  for (int i = 0; i < 1000; ++i) {
    const bool copied = i >= 200 && i < 500 && !(i >= 400 && i < 410);
    ASSERT_EQ(got[i], copied ? values[i - 100] : 0) << i;
  }
}

TEST_F(ClDeviceTest, SeveralThreadsWriteTheirParts) {
  const ClDevice device(info_);
  constexpr int kThreads = 4, kParts = 16, kInts = 1 << 14;
  const ClBuffer buffer = device.Allocate(sizeof(int) * kThreads * kParts * kInts);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int p = t; p < kThreads * kParts; p += kThreads) {
        const std::vector<int> part(kInts, p);
        device.BlockingWrite(buffer.get(), sizeof(int) * kInts * p, part.data(),
                             sizeof(int) * kInts);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<int> got(kThreads * kParts * kInts);
  device.BlockingRead(buffer.get(), 0, got.data(), got.size() * sizeof(int));
  for (int i = 0; i < std::ssize(got); ++i) ASSERT_EQ(got[i], i / kInts) << i;
}

TEST_F(ClDeviceTest, RefusesAllocationsByNameAndSize) {
  const ClDevice device(info_);
  for (const std::size_t bytes : {std::size_t{0}, info_.max_alloc_bytes + 1, SIZE_MAX}) {
    try {
      device.Allocate(bytes);
      ADD_FAILURE() << bytes << " bytes were allocated";
    } catch (const OpenClError& e) {
      const std::string what = e.what();
      for (const std::string& part : {std::to_string(bytes), std::to_string(info_.max_alloc_bytes),
                                      info_.name, std::string("CL_INVALID_BUFFER_SIZE")}) {
        EXPECT_NE(what.find(part), std::string::npos) << part << " in: " << what;
      }
    }
  }
}

TEST_F(ClDeviceTest, WritesBeyondABufferAreRefused) {
  const ClDevice device(info_);
  const ClBuffer buffer = device.Allocate(64);
  const int value = 0;
  EXPECT_THROW(device.BlockingWrite(buffer.get(), 64, &value, 4), OpenClError);
}

TEST_F(ClDeviceTest, ADeviceThatIsGoneIsRefused) {
  ClDeviceInfo other = info_;
  other.name = "something else";
  EXPECT_THROW(ClDevice{other}, OpenClError);
  other = info_;
  other.platform_index = 99;
  EXPECT_THROW(ClDevice{other}, OpenClError);
  other = info_;
  other.device_index = 99;
  EXPECT_THROW(ClDevice{other}, OpenClError);
}

TEST(ClErrors, AreNamed) {
  EXPECT_EQ(ClErrorName(CL_OUT_OF_RESOURCES), "CL_OUT_OF_RESOURCES");
  EXPECT_EQ(ClErrorName(-1001), "CL_PLATFORM_NOT_FOUND_KHR");
  EXPECT_EQ(ClErrorName(-4321), "OpenCL error -4321");
  EXPECT_NO_THROW(ClCheck(CL_SUCCESS, "x"));
  EXPECT_THROW(ClCheck(CL_INVALID_VALUE, "x"), OpenClError);
}

}  // namespace
}  // namespace tandem
