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
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::kRef);
  for (std::size_t i = 1; i < isas.size(); ++i) EXPECT_LT(isas[i - 1], isas[i]);
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
  for (const char* word : {"amx_int8", "AVX2", "avx", "ref "}) {
    const std::string message = MessageOfChoosing(word);
    EXPECT_NE(message.find(std::string("TANDEM_FORCE_ISA=") + word), std::string::npos) << message;
    EXPECT_NE(message.find(Name(SupportedIsas().back())), std::string::npos) << message;
  }
}

TEST(Isa, ALevelThatTheCpuLacksIsRefused) {
  const Isa best = SupportedIsas().back();
  for (int i = 0; i <= static_cast<int>(Isa::kAmx); ++i) {
    if (Supports(static_cast<Isa>(i))) continue;
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
    for (int i = 0; i < kNumWeightFormats; ++i) {
      EXPECT_NE(table.linear[i], nullptr) << Name(isa) << " format " << i;
    }
    for (int i = 0; i < kNumScalarFormats; ++i) {
      EXPECT_NE(table.linear_transposed[i], nullptr) << Name(isa) << " format " << i;
    }
    EXPECT_TRUE(table.rmsnorm && table.swiglu && table.rope && table.attention && table.router &&
                table.to_bf16 && table.to_f16 && table.widen && table.add && table.quantize_rows)
        << Name(isa);
  }
}

}  // namespace
}  // namespace tandem::cpu
