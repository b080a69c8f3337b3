// ctest: unit
#include "model/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "model/checkpoint.h"
#include "tests/support/expect_error.h"

namespace tandem {
namespace {

using test::ExpectError;

std::vector<std::byte> Bytes(const Model& model, const TensorInfo& tensor, std::uint64_t offset,
                             std::size_t count, Piece piece = Piece::kData) {
  std::vector<std::byte> bytes(count);
  model.source->Read(tensor, piece, offset, bytes);
  return bytes;
}

float Element(const std::vector<std::byte>& bytes, DType dtype, std::size_t i) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, bytes.data() + i * BytesOf(dtype), BytesOf(dtype));
  switch (dtype) {
    case DType::kBF16:
      return Bf16ToF32(static_cast<std::uint16_t>(bits));
    case DType::kF16:
      return F16ToF32(static_cast<std::uint16_t>(bits));
    case DType::kF8E4M3:
      return E4M3ToF32(static_cast<std::uint8_t>(bits));
    default:
      float value = 0;
      std::memcpy(&value, &bits, sizeof(value));
      return value;
  }
}

struct Moments {
  double mean = 0;
  double rms = 0;
  double largest = 0;
};

Moments MomentsOf(const Model& model, const TensorInfo& tensor, std::size_t count) {
  const auto bytes = Bytes(model, tensor, 0, count * BytesOf(tensor.dtype));
  Moments m;
  for (std::size_t i = 0; i < count; ++i) {
    const double value = Element(bytes, tensor.dtype, i);
    m.mean += value / static_cast<double>(count);
    m.rms += value * value / static_cast<double>(count);
    m.largest = std::max(m.largest, std::abs(value));
  }
  m.rms = std::sqrt(m.rms);
  return m;
}

TEST(Synthetic, WeightsAreSmallAndCentred) {
  for (const char* dtype : {"f32", "bf16", "f16"}) {
    const Model model = OpenSynthetic(fmt::format("deepseek-v2-lite:layers=1:dtype={}", dtype));
    const auto& q = model.tensors.Get(Role::kAttention, Part::kQ, 0);
    const Moments m = MomentsOf(model, q, 1 << 18);
    EXPECT_NEAR(m.rms, 0.0195, 0.0005) << dtype;
    EXPECT_NEAR(m.mean, 0, 5 * 0.0195 / 512) << dtype;  // 5 sigma of the mean of 2^18
    EXPECT_LT(m.largest, 0.0625) << dtype;
  }
}

TEST(Synthetic, Fp8TimesItsScalesIsAsSmall) {
  const Model model = OpenSynthetic("deepseek-v3:layers=1");
  const auto& q = model.tensors.Get(Role::kAttention, Part::kQA, 0);
  ASSERT_EQ(q.dtype, DType::kF8E4M3);
  // All codes without the top exponent bit are equally likely.
  double mean_square = 0;
  for (int code = 0; code < 64; ++code) {
    const double value = E4M3ToF32(static_cast<std::uint8_t>(code));
    mean_square += value * value / 64;
  }
  const Moments m = MomentsOf(model, q, 1 << 18);
  EXPECT_NEAR(m.rms, std::sqrt(mean_square), 0.01 * m.rms);
  EXPECT_NEAR(m.rms / 32, 0.02, 0.002);
  const auto codes = Bytes(model, q, 0, q.data.bytes);
  EXPECT_EQ(FindFp8Nan(codes), codes.size());
  const auto scales = Bytes(model, q, 0, q.scale.bytes, Piece::kScale);
  for (std::size_t i = 0; i < scales.size() / 4; ++i) {
    EXPECT_NEAR(Element(scales, DType::kF32, i), 1.0 / 32, 1.0 / 128);
  }
}

TEST(Synthetic, NormsAreNearOneAndBiasesSmall) {
  const Model model = OpenSynthetic("deepseek-v3:layers=4");
  const auto& norm = model.tensors.Get(Role::kAttention, Part::kInputNorm, 0);
  const auto norm_bytes = Bytes(model, norm, 0, norm.data.bytes);
  for (std::size_t i = 0; i < 7168; ++i) {
    EXPECT_NEAR(Element(norm_bytes, DType::kBF16, i), 1, 0.055);  // 0.05, rounded to bf16
  }
  const auto& bias = model.tensors.Get(Role::kRouter, Part::kRouterBias, 3);
  const Moments m = MomentsOf(model, bias, 256);
  EXPECT_LE(m.largest, 0.01);
  EXPECT_GT(m.largest, 0.005);
}

// Any window gives the bytes of the whole: readers cut tensors as they like.
TEST(Synthetic, BytesDependOnTheOffsetOnly) {
  const Model model = OpenSynthetic("deepseek-v3:layers=4:dtype=fp8");
  for (const TensorInfo* t : {&model.tensors.Get(Role::kAttention, Part::kQA, 0),
                              &model.tensors.Get(Role::kEmbedding, Part::kEmbed),
                              &model.tensors.Get(Role::kAttention, Part::kInputNorm, 0),
                              &model.tensors.Get(Role::kRouter, Part::kRouterBias, 3)}) {
    const auto whole = Bytes(model, *t, 0, 100);
    for (std::size_t begin = 0; begin < 20; ++begin) {
      for (std::size_t count = 0; count <= 40; ++count) {
        const auto part = Bytes(model, *t, begin, count);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin))
            << t->name << " [" << begin << ", +" << count << ")";
      }
    }
    const auto last = Bytes(model, *t, t->data.bytes - 3, 3);
    EXPECT_EQ(last, Bytes(model, *t, t->data.bytes - 3, 3));
  }
}

TEST(Synthetic, TensorsDiffer) {
  const Model model = OpenSynthetic("deepseek-v2-lite:layers=2");
  const auto& a = model.tensors.Get(Role::kRouted, Part::kGate, 1, 0);
  const auto& b = model.tensors.Get(Role::kRouted, Part::kGate, 1, 1);
  EXPECT_NE(Bytes(model, a, 0, 64), Bytes(model, b, 0, 64));
  EXPECT_NE(Bytes(model, a, 0, 64), Bytes(model, a, 64, 64));
}

TEST(Synthetic, Options) {
  const Model model = OpenSynthetic("deepseek-v3:layers=2:dtype=bf16:experts=64:vocab=1000");
  EXPECT_EQ(model.name, "deepseek-v3:layers=2:dtype=bf16:experts=64:vocab=1000");
  EXPECT_TRUE(model.path.empty());
  EXPECT_EQ(model.config.num_hidden_layers, 2);
  EXPECT_EQ(model.config.first_k_dense_replace, 3);
  EXPECT_EQ(model.config.n_routed_experts, 64);
  EXPECT_EQ(model.config.vocab_size, 1000);
  EXPECT_FALSE(model.config.fp8);
  EXPECT_TRUE(model.config.eos_token_ids.empty());
  EXPECT_TRUE(OpenSynthetic("deepseek-v3:layers=1").config.fp8);
  EXPECT_FALSE(OpenSynthetic("deepseek-v2").config.fp8);
}

void ExpectRefused(const std::string& spec, std::string_view word) {
  ExpectError<ConfigError>(ExitCode::kConfig, {spec, word, "deepseek-v2-lite", "layers=N"},
                           [&] { OpenSynthetic(spec); });
}

TEST(Synthetic, RefusesWhatItDoesNotKnow) {
  ExpectRefused("", "unknown shape ''");
  ExpectRefused("deepseek-v5", "unknown shape 'deepseek-v5'");
  ExpectRefused("deepseek-v3:layer=2", "unknown option 'layer=2'");
  ExpectRefused("deepseek-v3:", "unknown option ''");
  ExpectRefused("deepseek-v3:layers=0", "from 1 to 1000, found '0'");
  ExpectRefused("deepseek-v3:layers=2x", "found '2x'");
  ExpectRefused("deepseek-v3:layers", "found ''");
  ExpectRefused("deepseek-v3:dtype=int4", "unknown dtype 'int4'");
  ExpectRefused("deepseek-v3:experts=100", "n_group: expected a divisor");
  ExpectRefused("deepseek-v2-lite:experts=5", "num_experts_per_tok");
}

}  // namespace
}  // namespace tandem
