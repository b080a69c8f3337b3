// ctest: unit
// Includes go downward only: the table of docs/architecture.md.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"memory", {"memory"}},
    {"cpu_kernels", {"cpu_kernels", "memory"}},
    {"cl_kernels", {"cl_kernels", "memory"}},
    {"model", {"model", "memory"}},
    {"placement", {"placement", "model", "memory"}},
    {"runtime", {"runtime", "placement", "model", "cpu_kernels", "cl_kernels", "memory"}},
};

TEST(Layers, IncludesGoDownward) {
  const fs::path root = TANDEM_SOURCE_DIR;
  const std::regex include(R"(^\s*#\s*include\s+"(?:\.\./)*([a-z_]+)/.*)");
  int seen = 0;
  for (const auto& [folder, allowed] : kMayInclude) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      std::ifstream file(entry.path());
      std::smatch match;
      for (std::string line; entry.is_regular_file() && std::getline(file, line);) {
        if (!std::regex_match(line, match, include)) continue;
        ++seen;
        EXPECT_TRUE(allowed.contains(match[1])) << entry.path() << ": " << line;
      }
    }
  }
  EXPECT_GT(seen, 100) << "the pattern no longer finds the includes";
}

}  // namespace
