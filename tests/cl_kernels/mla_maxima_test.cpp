// ctest: opencl
// Attention in the latent space where the largest score moves: forms that make probabilities with
// the largest one of earlier keys must correct what they have.
#include <functional>

#include "tests/support/mla_attention_fixture.h"

namespace tandem {
namespace {

using test::AttentionCase;
using test::kBlock;
using test::kMmaTypes;
using test::Shapes;

using ScoreOf = std::function<float(std::int64_t)>;  // of a key

// Every form that the device has; the generic one alone where there is no other.
class MlaMaximaTest : public test::MlaMmaTest {
 protected:
  void SetUp() override {
    test::MlaAttentionTest::SetUp();
    if (!IsSkipped()) has_forms_ = MakeForms();
  }

  // Key j has this score in heads 0, 4, ..., its negative in 1, 5, ..., half of it in 3, 7, ...; in
  // heads 2, 6, ... all keys have nearly the same. It comes by the first value of the rope part,
  // which a cache in f8 has in bf16, too; the rest of q is small.
  void CheckScores(AttentionCase c, const ScoreOf& score) {
    c.q_size = 0.05F;
    Prepare(c);
    for (std::int64_t t = 0; t < std::ssize(c.keys); ++t) {
      for (std::int64_t j = 0; j < c.keys[static_cast<std::size_t>(t)]; ++j) {
        SetRope(c, t, j, score(j));
      }
      for (std::int64_t h = 0; h < c.H; ++h) {
        constexpr float kSizes[] = {1.0F, -1.0F, 0.0F, 0.5F};
        q_[static_cast<std::size_t>((t * c.H + h) * (c.R + c.d) + c.R)] = kSizes[h % 4] / Scale(c);
      }
    }
    CheckGeneric(c);
    if (has_forms_) CheckForms(c);
  }
  void CheckAllTypes(const ScoreOf& score) {
    for (const DType type : kMmaTypes) CheckScores({64, 512, 64, {235, 35}, 1, type}, score);
  }

  void SetRope(const AttentionCase& c, std::int64_t t, std::int64_t j, float value) {
    const std::int64_t slot = Token(c, t, j) - values_.data();
    std::uint8_t* const row = kv_.data() + slot / (c.R + c.d) * bytes_;
    EncodeValue(c, row, c.R, value);
    values_[static_cast<std::size_t>(slot + c.R)] = test::CacheValue(c.type, row, c.R, c.R);
  }

  bool has_forms_ = false;
};

TEST_P(MlaMaximaTest, RiseWithEveryKey) {
  for (const float rise : {0.05F, 0.25F, 1.0F}) {  // 16 keys rise by less than 2^8, and by more
    CheckAllTypes([&](std::int64_t j) { return rise * static_cast<float>(j); });
  }
}

TEST_P(MlaMaximaTest, JumpLate) {
  for (const std::int64_t at : {1, 150, 234}) {
    CheckAllTypes([&](std::int64_t j) { return j < at ? 0.0F : 100.0F; });
  }
}

TEST_P(MlaMaximaTest, OneKeyAboveTheOthers) {
  for (const std::int64_t at : {0, 17, 33, 200}) {
    CheckAllTypes([&](std::int64_t j) { return j == at ? 60.0F : 0.0F; });
  }
}

// Just below and just above a rise of 2^8, again and again.
TEST_P(MlaMaximaTest, RiseByAboutTheThreshold) {
  for (const float rise : {5.5F, 5.54F, 5.6F}) {
    CheckAllTypes([&](std::int64_t j) { return rise * static_cast<float>(j / 16); });
  }
}

TEST_P(MlaMaximaTest, EqualScores) {
  for (const float all : {0.0F, -300.0F, 300.0F}) {
    CheckAllTypes([&](std::int64_t) { return all; });
  }
}

// The first run has what the second lies far below, and rows end in the middle of a step or have
// no key.
TEST_P(MlaMaximaTest, RunsAndRowsWithoutKeys) {
  for (const DType type : kMmaTypes) {
    CheckScores({64, 512, 64, {1, 0, 190, 129}, 2, type}, [](std::int64_t j) {
      return j < kBlock ? 80.0F : -80.0F + 0.5F * static_cast<float>(j % 64);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaMaximaTest, ::testing::Values(Shapes::kCpu, Shapes::kGpu),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem
