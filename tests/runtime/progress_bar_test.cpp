// ctest: unit
#include "runtime/progress_bar.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/table.h"

namespace tandem {
namespace {

constexpr std::uint64_t kGib = std::uint64_t{1} << 30;

TEST(ProgressLine, SaysBytesRateAndTimeLeft) {
  EXPECT_EQ(ProgressLine("loading", 2 * kGib, 10 * kGib, 4),
            "loading 2.00 of 10.00 GiB, 0.50 GiB/s, 16 s left");
  EXPECT_EQ(ProgressLine("loading", 0, 10 * kGib, 0), "loading 0.00 of 10.00 GiB");
}

std::string Written(std::FILE* file) {
  std::rewind(file);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Updates from several threads for longer than a terminal's period, which is a tenth of a second.
std::string Work(ProgressBar::Style style) {
  const std::unique_ptr<std::FILE, CloseFile> out(std::tmpfile());
  ProgressBar bar(style, out.get(), [] { return false; });
  bar.Begin("loading", kGib);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&bar] {
      for (std::uint64_t done = 0; done < 150; ++done) {
        bar.Update(done << 20);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  bar.End();
  return Written(out.get());
}

TEST(ProgressBar, RedrawsOneLineOnATerminalOnly) {
  const std::string terminal = Work(ProgressBar::Style::kTerminal);
  EXPECT_NE(terminal.find("\r\033[Kloading "), std::string::npos) << terminal;
  EXPECT_TRUE(terminal.ends_with("\r\033[K"));
  EXPECT_EQ(terminal.find('\n'), std::string::npos);
  EXPECT_EQ(Work(ProgressBar::Style::kPlain), "");  // short work says nothing
  EXPECT_EQ(Work(ProgressBar::Style::kQuiet), "");
}

TEST(Table, AlignsByCharactersAndTrimsLines) {
  Table table({{"name"}, {"bytes", Table::Align::kRight}, {"note"}});
  table.Add({"é", "5", ""});
  table.Add({"longer", "1234567", "x"});
  EXPECT_EQ(table.ToText(),
            "name      bytes  note\n"
            "é             5\n"
            "longer  1234567  x\n");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(671026419200), "671.03 B");
}

}  // namespace
}  // namespace tandem
