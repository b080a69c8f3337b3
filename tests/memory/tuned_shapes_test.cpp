// ctest: unit
// The file of kernel shapes: what is written is read, and nothing else is believed.
#include "memory/tuned_shapes.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

ClDeviceInfo Card() {
  ClDeviceInfo info;
  info.name = "A Card (R) 80GB\nwith: a line end ";
  info.platform_version = "OpenCL 3.0";
  info.driver_version = "550.1";
  return info;
}

class TunedShapesTest : public ::testing::Test {
 protected:
  void SetUp() override { unsetenv("TANDEM_KERNEL_SHAPES"); }
  void TearDown() override { unsetenv("TANDEM_KERNEL_SHAPES"); }

  std::filesystem::path Store() const {
    return StoreShapes(folder_.path(), Card(), {{"teams=4", "few_rows_max=17"}, "2026-11-22"});
  }
  void Write(const std::string& text) const {
    std::ofstream(LoadShapes(folder_.path(), Card()).file, std::ios::binary) << text;
  }
  // What is said of a file with this text.
  std::string Problem(const std::string& text) const {
    Write(text);
    const TunedShapes got = LoadShapes(folder_.path(), Card());
    EXPECT_TRUE(got.changes.empty()) << text;
    EXPECT_EQ(WarningOf(got).empty(), got.problem.empty());
    return got.problem;
  }
  test::TempFolder folder_;
};

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST_F(TunedShapesTest, WhatIsStoredIsLoaded) {
  const TunedShapes none = LoadShapes(folder_.path(), Card());
  EXPECT_TRUE(none.changes.empty());
  EXPECT_EQ(ToText(none), "of the table");
  const std::filesystem::path file = Store();
  EXPECT_EQ(file, none.file);
  EXPECT_EQ(file.filename().string().rfind("a-card-r-80gb-with-a-line-end-", 0), 0U) << file;
  const TunedShapes got = LoadShapes(folder_.path(), Card());
  EXPECT_EQ(got.changes, (std::vector<std::string>{"teams=4", "few_rows_max=17"}));
  EXPECT_EQ(got.when, "2026-11-22");
  EXPECT_EQ(got.problem, "");
  EXPECT_EQ(WarningOf(got), "");
  EXPECT_NE(ToText(got).find("teams=4, few_rows_max=17 (measured 2026-11-22"), std::string::npos)
      << ToText(got);
}

TEST_F(TunedShapesTest, NoChangesAreAResultToo) {
  StoreShapes(folder_.path(), Card(), {{}, "2026-11-22"});
  const TunedShapes got = LoadShapes(folder_.path(), Card());
  EXPECT_TRUE(got.changes.empty());
  EXPECT_NE(ToText(got).find("of the table (measured 2026-11-22"), std::string::npos);
}

TEST_F(TunedShapesTest, AnotherDeviceOrDriverHasAFileOfItsOwn) {
  Store();
  ClDeviceInfo other = Card();
  other.driver_version = "560.2";
  EXPECT_NE(LoadShapes(folder_.path(), other).file, LoadShapes(folder_.path(), Card()).file);
  EXPECT_TRUE(LoadShapes(folder_.path(), other).changes.empty());
}

TEST_F(TunedShapesTest, AFileOfAnotherDeviceOrProgramIsRefusedByName) {
  const std::string text = test::ReadText(Store());
  const std::pair<const char*, const char*> changed[] = {
      {"driver: 550.1", "driver: 550.2"},
      {"device: A Card", "device: B Card"},
      {"platform: OpenCL 3.0", "platform: OpenCL 1.2"},
      {"tandem: " TANDEM_VERSION, "tandem: 0.0.0"},
      {"format: 1", "format: 2"}};
  for (const auto& [from, to] : changed) {
    const std::string problem = Problem(Replaced(text, from, to));
    const std::string key(from, std::string(from).find(':'));
    EXPECT_NE(problem.find("measured for " + key + " '"), std::string::npos) << problem;
  }
  Write(text);
  EXPECT_EQ(LoadShapes(folder_.path(), Card()).changes.size(), 2U);
}

TEST_F(TunedShapesTest, NothingElseIsBelieved) {
  const std::string text = test::ReadText(Store());
  EXPECT_NE(Problem(""), "");
  EXPECT_NE(Problem("teams=4\n").find("line 1: expected 'key: value'"), std::string::npos);
  EXPECT_NE(Problem(std::string("\x00\xff\xfe: \n\n", 8)), "");
  EXPECT_NE(Problem(text + "teams: 8\n").find("'teams' for the second time"), std::string::npos);
  EXPECT_NE(Problem(Replaced(text, "\nmeasured", "\nmesured")).find("'measured' is missing"),
            std::string::npos);
  EXPECT_NE(Problem(text + std::string(100'000, '#')), "");
  EXPECT_NE(Problem(text.substr(0, text.find("driver"))), "");
}

TEST_F(TunedShapesTest, TheVariableComesFirst) {
  Store();
  setenv("TANDEM_KERNEL_SHAPES", "table", 1);
  TunedShapes got = LoadShapes(folder_.path(), Card());
  EXPECT_TRUE(got.forced);
  EXPECT_TRUE(got.changes.empty());
  setenv("TANDEM_KERNEL_SHAPES", "teams=2,wide_rows=8", 1);
  got = LoadShapes(folder_.path(), Card());
  EXPECT_EQ(got.changes, (std::vector<std::string>{"teams=2", "wide_rows=8"}));
  EXPECT_EQ(ToText(got), "teams=2, wide_rows=8 (TANDEM_KERNEL_SHAPES)");
  setenv("TANDEM_KERNEL_SHAPES", "", 1);
  EXPECT_FALSE(LoadShapes(folder_.path(), Card()).forced);
}

TEST_F(TunedShapesTest, WithoutACacheFolderThereIsNothing) {
  const TunedShapes got = LoadShapes({}, Card());
  EXPECT_TRUE(got.file.empty());
  EXPECT_EQ(ToText(got), "of the table");
}

}  // namespace
}  // namespace tandem
