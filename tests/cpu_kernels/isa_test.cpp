// ctest: unit
#include "cpu_kernels/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "cpu_kernels/kernel_table.h"
#include "memory/error.h"

namespace tandem::cpu {
namespace {

// Sets TANDEM_FORCE_ISA for one scope and puts the old value back.
class ForcedIsa {
 public:
  explicit ForcedIsa(const std::string& word) {
    if (const char* old = std::getenv(kVariable)) old_ = old;
    setenv(kVariable, word.c_str(), 1);
  }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
  ~ForcedIsa() { old_.empty() ? unsetenv(kVariable) : setenv(kVariable, old_.c_str(), 1); }

 private:
  static constexpr const char* kVariable = "TANDEM_FORCE_ISA";
  std::string old_;
};

std::string MessageOfChoosing(const std::string& word) {
  const ForcedIsa forced(word);
  try {
    ChooseIsa();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Isa, TheReferenceIsAlwaysThereAndLevelsRise) {
  const std::vector<Isa> isas = SupportedIsas();
  for (std::size_t i = 0; i < isas.size(); ++i) EXPECT_EQ(isas[i], static_cast<Isa>(i));
  ASSERT_FALSE(isas.empty());
}

TEST(Isa, AnEmptySettingMeansTheBest) {
  const ForcedIsa forced("");
  EXPECT_EQ(ChooseIsa(), SupportedIsas().back());
}

TEST(Isa, EverySupportedLevelCanBeForced) {
  for (const Isa isa : SupportedIsas()) {
    const ForcedIsa forced{std::string(Name(isa))};
    EXPECT_EQ(ChooseIsa(), isa);
  }
}

TEST(Isa, AnUnknownWordIsRefusedWithTheBestLevel) {
  for (const char* word : {"amx", "AVX2", "avx", "ref "}) {
    const std::string message = MessageOfChoosing(word);
    EXPECT_NE(message.find(std::string("TANDEM_FORCE_ISA=") + word), std::string::npos) << message;
    EXPECT_NE(message.find(Name(SupportedIsas().back())), std::string::npos) << message;
  }
}

TEST(Isa, ALevelThatTheCpuLacksIsRefused) {
  const Isa best = SupportedIsas().back();
  for (int i = static_cast<int>(best) + 1; i <= static_cast<int>(Isa::kAvx512Bf16); ++i) {
    const std::string message = MessageOfChoosing(std::string(Name(static_cast<Isa>(i))));
    EXPECT_NE(message.find("not supported by this CPU (best: " + std::string(Name(best)) + ")"),
              std::string::npos)
        << message;
  }
}

TEST(KernelTable, EveryEntryIsFilledAtEveryLevel) {
  for (const Isa isa : SupportedIsas()) {
    const KernelTable table = MakeKernelTable(isa);
    EXPECT_EQ(table.isa, isa);
    for (int i = 0; i < kNumScalarFormats; ++i) {
      EXPECT_NE(table.linear[i], nullptr) << Name(isa) << " format " << i;
      EXPECT_NE(table.linear_transposed[i], nullptr) << Name(isa) << " format " << i;
    }
    EXPECT_TRUE(table.rmsnorm && table.swiglu && table.rope && table.attention && table.router &&
                table.to_bf16 && table.widen && table.add)
        << Name(isa);
  }
}

}  // namespace
}  // namespace tandem::cpu
