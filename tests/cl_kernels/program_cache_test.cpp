// ctest: opencl
#include "cl_kernels/program_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "cl_kernels/programs.h"
#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using Binary = std::vector<unsigned char>;

class ProgramCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem-cache-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override {
    fs::permissions(directory_, fs::perms::owner_all);
    fs::remove_all(directory_);
  }
  std::string ReadFile(const std::string& key) const {
    std::ifstream in(cl::ProgramCache(directory_).FileOf(key), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void WriteFile(const std::string& key, const std::string& bytes) const {
    std::ofstream(cl::ProgramCache(directory_).FileOf(key), std::ios::binary) << bytes;
  }
  fs::path directory_;
};

TEST_F(ProgramCacheTest, GivesBackWhatWasStoredUnderItsKeyOnly) {
  const cl::ProgramCache cache(directory_ / "a" / "b");
  EXPECT_FALSE(cache.Load("key"));
  cache.Store("key", {1, 2, 3});
  cache.Store("other", {});
  EXPECT_EQ(cache.Load("key"), (Binary{1, 2, 3}));
  EXPECT_EQ(cache.Load("other"), Binary{});
  EXPECT_FALSE(cache.Load("key2"));
  cache.Store("key", {4});
  EXPECT_EQ(cache.Load("key"), Binary{4});
}

TEST_F(ProgramCacheTest, LeavesNoTemporaryFile) {
  cl::ProgramCache(directory_).Store("key", {1});
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), {}), 1);
}

TEST_F(ProgramCacheTest, AnyDamageIsAMiss) {
  const cl::ProgramCache cache(directory_);
  cache.Store("key", {1, 2, 3, 4});
  const std::string good = ReadFile("key");
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    WriteFile("key", bad);
    EXPECT_FALSE(cache.Load("key")) << "byte " << i;
    WriteFile("key", good.substr(0, i));
    EXPECT_FALSE(cache.Load("key")) << "cut at " << i;
  }
  WriteFile("key", good + "x");
  EXPECT_FALSE(cache.Load("key"));
  WriteFile("key", good);
  EXPECT_TRUE(cache.Load("key"));
}

TEST_F(ProgramCacheTest, AFileOfAnotherKeyIsAMiss) {
  const cl::ProgramCache cache(directory_);
  cache.Store("theirs", {1});
  fs::copy_file(cache.FileOf("theirs"), cache.FileOf("ours!!"));
  EXPECT_FALSE(cache.Load("ours!!"));
}

TEST_F(ProgramCacheTest, UnusableDirectoriesAreQuiet) {
  WriteFile("key", "a file in the way");
  const fs::path file = cl::ProgramCache(directory_).FileOf("key");
  for (const fs::path& directory :
       {fs::path(), file, fs::path("/proc/self/none"), file / "under"}) {
    const cl::ProgramCache cache(directory);
    cache.Store("key", {1});
    EXPECT_FALSE(cache.Load("key")) << directory;
  }
}

TEST_F(ProgramCacheTest, ReadOnlyDirectoryIsQuiet) {
  fs::permissions(directory_, fs::perms::owner_read | fs::perms::owner_exec);
  const cl::ProgramCache cache(directory_);
  cache.Store("key", {1});
  // The superuser may write anywhere; everybody else finds nothing stored.
  EXPECT_EQ(cache.Load("key").has_value(), geteuid() == 0);
}

TEST_F(ProgramCacheTest, ADirectoryInPlaceOfTheFileIsAMiss) {
  const cl::ProgramCache cache(directory_);
  fs::create_directory(cache.FileOf("key"));
  cache.Store("key", {1});
  EXPECT_FALSE(cache.Load("key"));
}

// The cache under a driver: kRows is the smallest program.
class CachedProgramsTest : public ProgramCacheTest {
 protected:
  void SetUp() override {
    ProgramCacheTest::SetUp();
    if (test::TheClDevice() == nullptr) GTEST_SKIP() << "no OpenCL device";
    traits_ = cl::TraitsOf(*test::TheClDevice());
    traits_.cache_binaries = true;
  }
  // Builds, runs something, and returns how many programs were compiled from source.
  int CompiledFor(const fs::path& directory) {
    const ClDevice& device = *test::TheClDevice();
    cl::Kernels kernels(device, directory, traits_);
    const ClBuffer x = test::Upload(device, std::vector<float>{1, 2, 3});
    kernels.Add({{x.get(), 0}, {x.get(), 0}, 3});
    EXPECT_EQ(test::Download<float>(device, x, 3), (std::vector<float>{2, 4, 6}));
    cl::Programs programs(device, traits_, directory);
    programs.Build(cl::Program::kRows, DType::kF32);
    return programs.compiled();
  }
  cl::DeviceTraits traits_;
};

TEST_F(CachedProgramsTest, HitDamageAndNoCache) {
  EXPECT_EQ(CompiledFor(directory_), 0);  // the kernels stored what the second set found
  for (const auto& entry : fs::directory_iterator(directory_)) {
    fs::resize_file(entry.path(), fs::file_size(entry.path()) / 2);
  }
  EXPECT_EQ(CompiledFor(directory_), 0);  // compiled again, stored again
  EXPECT_EQ(CompiledFor(""), 1);
}

// A file that is whole and of the right key, with bytes that the driver cannot take (F53).
TEST_F(CachedProgramsTest, ABinaryThatTheDriverRefusesIsCompiledFromSource) {
  const cl::Programs key_of(*test::TheClDevice(), traits_, directory_);
  cl::ProgramCache(directory_)
      .Store(key_of.CacheKey(cl::Program::kRows, DType::kF32), Binary(100, 7));
  cl::Programs programs(*test::TheClDevice(), traits_, directory_);
  programs.Build(cl::Program::kRows, DType::kF32);
  EXPECT_EQ(programs.compiled(), 1);
}

TEST_F(CachedProgramsTest, KeyHoldsAllThatABinaryDependsOn) {
  const cl::Programs programs(*test::TheClDevice(), traits_, "");
  const std::string key = programs.CacheKey(cl::Program::kMatmul, DType::kBF16);
  const ClDeviceInfo& info = test::TheClDevice()->info();
  for (const std::string& part :
       {info.name, info.driver_version, info.platform_version, traits_.Options(),
        cl::TextOf(cl::Program::kMatmul), std::string("-DWTYPE=1"), std::string("format ")}) {
    EXPECT_NE(key.find(part), std::string::npos) << part;
  }
}

TEST_F(CachedProgramsTest, BuildFailureNamesProgramOptionsDeviceAndLog) {
  cl::DeviceTraits broken = traits_;
  broken.team = -3;  // local arrays of negative size
  cl::Programs programs(*test::TheClDevice(), broken, "");
  try {
    programs.Build(cl::Program::kMatmul, DType::kBF16);
    FAIL() << "a program with arrays of negative size was accepted";
  } catch (const OpenClError& e) {
    const std::string what = e.what();
    for (const std::string& part :
         {std::string("'matmul'"), std::string("-DTEAM=-3"), test::TheClDevice()->info().name}) {
      EXPECT_NE(what.find(part), std::string::npos) << part << " in: " << what.substr(0, 2000);
    }
    EXPECT_GT(what.size(), what.find(":\n") + 10) << "no build log";
  }
}

}  // namespace
}  // namespace tandem
