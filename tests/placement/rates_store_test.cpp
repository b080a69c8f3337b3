// ctest: unit
#include "placement/rates_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "invented.h"
#include "placement/rates_json.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// A table of four points instead of thousands: files stay small enough to damage every byte of.
RateTable Small() { return {{{{1, 1024}, {16}, {1, 8}}}, {1e-6, 2e-6, 3e-5, 0.1234567890123456}}; }

Machine Measured() {
  Machine machine = test::GpuMachine(24);
  test::AddDevice(machine, "Invented GPU 8G", false, 8 * test::kGiB, 2 * test::kGiB);
  machine.rates = AssumeRates(machine);
  machine.rates.origin = RatesOrigin::kMeasured;
  machine.rates.when = "2026-11-22 06:40 UTC";
  for (TeamRates& team : machine.rates.host.teams) {
    team.linear = team.experts = {{DType::kBF16, Small()}};
    team.attention = Small();
  }
  for (DeviceRates& device : machine.rates.devices) {
    device.linear = device.experts = {{DType::kF8E4M3, Small()}};
    device.attention = Small();
    device.launch_s = 1.1e-6 * (device.index + 1);
  }
  return machine;
}

std::string Text(const Rates& rates) {
  std::string text = ToJson(rates.host).dump();
  for (const DeviceRates& device : rates.devices) text += ToJson(device).dump();
  return text;
}

class RatesStore : public testing::Test {
 protected:
  RatesStore() {
    EXPECT_EQ(StoreRates(folder_.path(), machine_), "");
    host_text_ = test::ReadText(HostFile());
  }

  std::optional<Rates> Load(const Machine& machine) {
    why_.clear();
    return LoadRates(folder_.path(), machine, why_);
  }
  std::string Why() const { return fmt::format("{}", fmt::join(why_, "; ")); }
  fs::path HostFile() const {
    return folder_.path() / ("host-" + HostFingerprint(machine_) + ".json");
  }
  fs::path DeviceFile(int i) const {
    return folder_.path() /
           ("device-" + DeviceFingerprint(machine_, machine_.devices.at(i)) + ".json");
  }
  // A CPU file whose checksum is right around other contents.
  void WriteHost(const std::string& from, const std::string& to) {
    std::string body = host_text_;
    const std::size_t at = body.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    body.replace(at, from.size(), to);
    body.erase(body.find(",\n  \"checksum\""));
    folder_.Write(HostFile().filename().string(), WithChecksum(body + "}"));
  }

  test::TempFolder folder_;
  Machine machine_ = Measured();
  std::string host_text_;
  std::vector<std::string> why_;
};

TEST_F(RatesStore, ReadsBackWhatItWrote) {
  const std::optional<Rates> rates = Load(machine_);
  ASSERT_TRUE(rates) << Why();
  EXPECT_EQ(Why(), "");
  EXPECT_EQ(Text(*rates), Text(machine_.rates));
  EXPECT_EQ(rates->origin, RatesOrigin::kMeasured);
  EXPECT_EQ(rates->when, machine_.rates.when);
}

// A command that does not look at devices must find the CPU's.
TEST_F(RatesStore, TheCpuIsFoundWithoutDevices) {
  Machine alone = machine_;
  alone.devices.clear();
  EXPECT_NE(Fingerprint(alone), Fingerprint(machine_));
  const std::optional<Rates> rates = Load(alone);
  ASSERT_TRUE(rates) << Why();
  EXPECT_EQ(rates->origin, RatesOrigin::kMeasured);
  EXPECT_EQ(ToJson(rates->host).dump(), ToJson(machine_.rates.host).dump());
  EXPECT_TRUE(rates->devices.empty());
}

TEST_F(RatesStore, ANewDriverMakesOnlyItsDeviceStale) {
  Machine updated = machine_;
  updated.devices[1].driver_version = "2.0";
  const std::optional<Rates> rates = Load(updated);
  ASSERT_TRUE(rates) << Why();
  EXPECT_EQ(rates->origin, RatesOrigin::kAssumed);
  EXPECT_EQ(Why(), "device 1: not measured yet");
  EXPECT_EQ(rates->devices[0].launch_s, machine_.rates.devices[0].launch_s);
  EXPECT_NE(rates->devices[1].launch_s, machine_.rates.devices[1].launch_s);
  EXPECT_EQ(Mismatch(*rates, updated), "");
}

TEST_F(RatesStore, DevicesInAnotherOrderKeepTheirRates) {
  Machine swapped = machine_;
  std::swap(swapped.devices[0], swapped.devices[1]);
  swapped.devices[0].index = 0;
  swapped.devices[1].index = 1;
  const std::optional<Rates> rates = Load(swapped);
  ASSERT_TRUE(rates) << Why();
  EXPECT_EQ(rates->origin, RatesOrigin::kMeasured);
  EXPECT_EQ(rates->devices[0].index, 0);
  EXPECT_EQ(rates->devices[0].launch_s, machine_.rates.devices[1].launch_s);
}

TEST_F(RatesStore, AnotherMachineHasNone) {
  for (const auto& change : std::initializer_list<void (*)(Machine&)>{
           [](Machine& m) { m.cpu_name = "Another CPU"; },
           [](Machine& m) { m.nodes[1].memory_bytes += test::kGiB; },
           [](Machine& m) { m.nodes[0].cores.pop_back(); }, [](Machine& m) { m.cpu_quota = 3; },
           [](Machine& m) {
             m.caches.push_back({3, 32 * test::kMiB, 2, 16});
           }}) {
    Machine other = machine_;
    change(other);
    EXPECT_FALSE(Load(other));
    EXPECT_NE(Why().find("CPU: not measured yet"), std::string::npos) << Why();
  }
}

TEST_F(RatesStore, WhatIsFreeNowDoesNotMatter) {
  Machine later = machine_;
  later.nodes[0].free_bytes /= 2;
  later.memory_limit_bytes /= 3;
  later.nodes[1].free_huge_page_bytes = test::kGiB;
  later.nodes[0].memory_bytes -= 3 * test::kMiB;
  EXPECT_EQ(Fingerprint(later), Fingerprint(machine_));
  EXPECT_TRUE(Load(later)) << Why();
}

// Virtual machines that take memory as it is first used count it on their nodes only then.
TEST_F(RatesStore, AMachineWhoseNodesGrowWithUseStaysTheSame) {
  machine_.memory_bytes = machine_.memory_limit_bytes = 0;
  for (const Node& node : machine_.nodes) machine_.memory_bytes += node.memory_bytes;
  const std::string grown = Fingerprint(machine_);
  for (const int sixteenths : {1, 8, 14, 15, 16}) {
    Machine young = machine_;
    for (Node& node : young.nodes) node.memory_bytes = node.memory_bytes / 16 * sixteenths;
    for (const int free : {1, 8, 15, 16}) {
      young.memory_limit_bytes = young.memory_bytes / 16 * free;
      EXPECT_EQ(Fingerprint(young), grown) << sixteenths << "/16 on the nodes, " << free << " free";
    }
  }
  machine_.memory_bytes *= 2;
  EXPECT_NE(Fingerprint(machine_), grown) << "of twice the memory";
}

// Rates of another machine under this one's name.
TEST_F(RatesStore, AForeignFingerprintIsNotTrusted) {
  WriteHost(HostFingerprint(machine_), "0123456789abcdef");
  EXPECT_FALSE(Load(machine_));
  EXPECT_NE(Why().find("another machine"), std::string::npos) << Why();
}

TEST_F(RatesStore, OtherFormatsAndValuesAreNotTrusted) {
  struct Case {
    const char* from;
    const char* to;
    const char* why;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"\"format\": 2", "\"format\": 1", "format 1"},
           {"\"tandem\": \"", "\"tandem\": \"9", "measured by tandem 9"},
           {"0.1234567890123456", "-1", "not negative"},
           {"0.1234567890123456", "nan", "not negative"},
           {"0.1234567890123456", "NaN", "not negative"},
           {"0.1234567890123456", "1e999", "not negative"},
           {"0.1234567890123456", "0", "positive number of seconds"},
           {"0.1234567890123456", "\"1\"", "not negative"},
           {"\"hand_out_s\"", "\"hand_out\"", "unknown key"},
           {"\"when\"", "\"wen\"", "did you mean 'when'"},
           {"\"threads\": 1,", "\"threads\": 77,", "more than the 77 before"},
           {"1024", "0", "whole number from 1"},
           {"\"rates\": {", "\"rates\": {\"x\": *a, ", "anchor"}}) {
    WriteHost(c.from, c.to);
    EXPECT_FALSE(Load(machine_)) << c.to;
    EXPECT_NE(Why().find(c.why), std::string::npos) << "no '" << c.why << "' in: " << Why();
  }
}

// A killed writer, a full disk.
TEST_F(RatesStore, CutAnywhereItIsNotTrusted) {
  Machine alone = machine_;  // loads faster
  alone.devices.clear();
  int tried = 0;
  for (std::size_t size = 0; size < host_text_.size(); size += size < 400 ? 1 : 37) {
    folder_.Write(HostFile().filename().string(), host_text_.substr(0, size));
    ASSERT_FALSE(Load(alone)) << size << " of " << host_text_.size();
    ++tried;
  }
  EXPECT_GT(tried, 400);
}

TEST_F(RatesStore, AnyFlippedBitIsNoticed) {
  const fs::path file = DeviceFile(0);
  const std::string text = test::ReadText(file);
  int tried = 0;
  for (std::size_t i = 0; i < text.size(); i += 1 + i % 5) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    folder_.Write(file.filename().string(), damaged);
    const std::optional<Rates> rates = Load(machine_);
    ASSERT_TRUE(rates) << Why();
    ASSERT_EQ(rates->origin, RatesOrigin::kAssumed) << "byte " << i;
    ASSERT_NE(Why().find("checksum"), std::string::npos) << Why();
    ++tried;
  }
  EXPECT_GT(tried, 300);
}

TEST_F(RatesStore, TooLargeOrNoFile) {
  folder_.Write(HostFile().filename().string(), std::string(5 << 20, ' '));
  EXPECT_FALSE(Load(machine_));
  EXPECT_NE(Why().find("bytes"), std::string::npos) << Why();
  fs::remove(HostFile());
  fs::create_directory(HostFile());
  EXPECT_FALSE(Load(machine_));
  EXPECT_NE(Why().find("not used"), std::string::npos) << Why();
}

TEST_F(RatesStore, StoringWhatCouldNotBeReadBackLeavesTheOldFile) {
  Machine bad = machine_;
  bad.rates.host.teams[0].attention.seconds[0] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_NE(StoreRates(folder_.path(), bad), "");
  EXPECT_EQ(test::ReadText(HostFile()), host_text_);
  EXPECT_TRUE(Load(machine_)) << Why();
}

TEST_F(RatesStore, AFolderThatCannotBeMadeIsTold) {
  folder_.Write("file", "");
  EXPECT_NE(StoreRates(folder_ / "file", machine_), "");
  EXPECT_NE(StoreRates("", machine_), "");
  std::vector<std::string> why;
  EXPECT_FALSE(LoadRates("", machine_, why));
  EXPECT_EQ(why.size(), 1U);
}

TEST(RatesFolder, FollowsXdg) {
  ::setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(RatesFolder(), fs::path("/x/tandem/rates"));
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/h", 1);
  EXPECT_EQ(RatesFolder(), fs::path("/h/.cache/tandem/rates"));
  ::unsetenv("HOME");
  EXPECT_EQ(RatesFolder(), fs::path());
}

}  // namespace
}  // namespace tandem
