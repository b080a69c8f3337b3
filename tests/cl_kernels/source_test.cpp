// ctest: opencl
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/program_sources.h"
#include "memory/split_layout.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

std::string ReadFile(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(ClSource, EveryFileIsInAProgramByteForByte) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(TANDEM_SOURCE_DIR) / "cl_kernels")) {
    if (entry.path().extension() != ".cl") continue;
    ++files;
    const std::string text = ReadFile(entry.path());
    bool found = false;
    for (const cl::Program program : cl::kPrograms) {
      found = found || cl::TextOf(program).find(text) != std::string::npos;
    }
    EXPECT_TRUE(found) << entry.path();
  }
  EXPECT_GE(files, 11);
}

// OpenCL C 1.2 and nothing else, without a device: drivers accept more than the standard has.
TEST(ClSource, ClangAcceptsEveryProgramAsOpenClC12) {
  if (std::system("clang --version > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "clang is not installed";
  std::string directory = (fs::temp_directory_path() / "tandem-cl-XXXXXX").string();
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  for (const cl::Program program : cl::kPrograms) {
    const fs::path file = fs::path(directory) / (std::string(cl::NameOf(program)) + ".cl");
    std::ofstream(file) << cl::TextOf(program);
    for (int number = 0; number < kNumWeightFormats; ++number) {
      const auto type = static_cast<DType>(number);
      const bool weights = cl::TypeOption(program, type).find("WTYPE") != std::string::npos;
      if (!IsDeviceFormat(type) || (IsBlockFormat(type) && !weights)) continue;
      for (const cl::DeviceTraits& traits : {cl::CpuTraits(4), cl::GpuTraits(4)}) {
        const std::string command =
            "clang -x cl -Xclang -finclude-default-header -fsyntax-only -Werror " +
            traits.Options() + cl::TypeOption(program, type) + " " + file.string();
        EXPECT_EQ(std::system(command.c_str()), 0) << command;
      }
    }
  }
  fs::remove_all(directory);
}

}  // namespace
}  // namespace tandem
