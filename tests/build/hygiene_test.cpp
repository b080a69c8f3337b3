// ctest: unit
// Rules that a search over the sources can check.
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <string_view>

namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 5> kLibraries = {"memory", "cpu_kernels", "cl_kernels",
                                                        "model", "placement"};
constexpr std::array<std::string_view, 6> kSources = {"memory", "cpu_kernels", "cl_kernels",
                                                      "model",  "placement",   "runtime"};

bool IsCode(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".cpp" || extension == ".h";
}

// Calls check(path, text) for every source file of the folders.
template <std::size_t N>
void ForEachSource(const std::array<std::string_view, N>& folders,
                   const std::function<void(const fs::path&, const std::string&)>& check) {
  int files = 0;
  for (const std::string_view folder : folders) {
    for (const auto& entry :
         fs::recursive_directory_iterator(fs::path(TANDEM_SOURCE_DIR) / folder)) {
      if (!entry.is_regular_file() || !IsCode(entry.path())) continue;
      std::ifstream file(entry.path());
      check(entry.path(), {std::istreambuf_iterator<char>(file), {}});
      ++files;
    }
  }
  EXPECT_GT(files, 20);
}

std::string WithoutComments(const std::string& text) {
  static const std::regex comment(R"(//[^\n]*)");
  return std::regex_replace(text, comment, "");
}

// A library reports by exceptions: it neither prints nor ends the process. (`_exit` in the child
// that looks for OpenCL devices is another word.)
TEST(Hygiene, LibrariesNeitherPrintNorExit) {
  const std::regex banned(
      R"((^|[^\w.>])(abort|printf|puts|exit|quick_exit|terminate)\s*\(|std::(cout|cerr|clog)\b)");
  ForEachSource(kLibraries, [&](const fs::path& path, const std::string& text) {
    std::smatch match;
    const std::string code = WithoutComments(text);
    EXPECT_FALSE(std::regex_search(code, match, banned)) << path << ": " << match.str();
  });
}

TEST(Hygiene, ParallelismHasOneHome) {
  std::set<std::string> files;
  ForEachSource(kSources, [&](const fs::path& path, const std::string& text) {
    if (text.find("#pragma omp") != std::string::npos) files.insert(path.filename().string());
  });
  EXPECT_EQ(files, std::set<std::string>{"worker_pool.cpp"});
}

TEST(Hygiene, NoPathsOfOneMachine) {
  const std::regex machine_path(R"("/(home|root|work|opt|mnt|Users)/)");
  ForEachSource(kSources, [&](const fs::path& path, const std::string& text) {
    std::smatch match;
    EXPECT_FALSE(std::regex_search(text, match, machine_path)) << path << ": " << match.str();
  });
}

}  // namespace
