// ctest: unit
#include "model/quantized_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "memory/blocks.h"
#include "model/quantize.h"
#include "model/quantized_model_rows.h"

namespace tandem {
namespace {

constexpr const char* kDemo = TANDEM_SOURCE_DIR "/model/demo";

Recipe Mix(std::string_view mix) {
  Recipe recipe;
  recipe.mix = mix;
  return recipe;
}

std::vector<float> Values(const Model& model, const TensorInfo& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  ReadRows(*model.source, tensor, 0, MatrixRows(tensor), values.data());
  return values;
}

std::vector<std::byte> Bytes(const Model& model, const TensorInfo& tensor) {
  std::vector<std::byte> bytes(tensor.data.bytes);
  model.source->Read(tensor, Piece::kData, 0, bytes);
  return bytes;
}

// What the tensor should hold: the source's values, quantised as a whole.
std::vector<std::byte> Expected(const std::vector<float>& values, const TensorInfo& tensor) {
  std::vector<std::byte> bytes(tensor.data.bytes);
  WriteRows(tensor.dtype, values.data(), MatrixRows(tensor), MatrixCols(tensor), nullptr,
            bytes.data());
  return bytes;
}

TEST(QuantizedModel, HoldsTheSourcesValuesQuantised) {
  const Model source = OpenCheckpoint(kDemo);  // FP8 with scales, and BF16
  const Model model = Quantized(source, Mix("q8_0")).model;
  int compared = 0;
  for (const TensorInfo& tensor : model.tensors.all()) {
    if (!IsQuantizable(tensor) || tensor.part == Part::kKB || tensor.part == Part::kVB) continue;
    if (tensor.expert > 2) continue;
    EXPECT_EQ(tensor.dtype, DType::kQ8_0) << tensor.name;
    EXPECT_FALSE(tensor.has_scale);
    const TensorInfo& from =
        source.tensors.Get(tensor.role, tensor.part, tensor.layer, tensor.expert);
    EXPECT_EQ(Bytes(model, tensor), Expected(Values(source, from), tensor)) << tensor.name;
    ++compared;
  }
  EXPECT_GT(compared, 50);
}

TEST(QuantizedModel, EveryRangeOfBytesIsThatOfTheWhole) {
  const Model model = Quantized(OpenCheckpoint(kDemo), Mix("q4_k_m")).model;
  const TensorInfo& tensor = model.tensors.Get(Role::kRouted, Part::kUp, 1, 3);
  const std::vector<std::byte> whole = Bytes(model, tensor);
  for (const auto& [offset, count] :
       std::vector<std::pair<std::size_t, std::size_t>>{{0, 1},
                                                        {1, 300},
                                                        {143, 2},
                                                        {144, 144},
                                                        {whole.size() - 1, 1},
                                                        {77, whole.size() - 77},
                                                        {whole.size(), 0}}) {
    std::vector<std::byte> part(count);
    model.source->Read(tensor, Piece::kData, offset, part);
    EXPECT_TRUE(std::ranges::equal(part, std::span(whole).subspan(offset, count))) << offset;
  }
}

TEST(QuantizedModel, SplitsKvbIntoKeysTransposedAndValues) {
  const Model source = OpenCheckpoint(kDemo);
  const Config& c = source.config;
  const Model model = Quantized(source, Mix("q8_0")).model;
  EXPECT_EQ(model.tensors.Find(Role::kAttention, Part::kKvB, 2), nullptr);
  const TensorInfo& k_b = model.tensors.Get(Role::kAttention, Part::kKB, 2);
  const TensorInfo& v_b = model.tensors.Get(Role::kAttention, Part::kVB, 2);
  const auto kv_b = Values(source, source.tensors.Get(Role::kAttention, Part::kKvB, 2));
  const std::int64_t rank = c.kv_lora_rank;
  const std::int64_t per_head = c.qk_nope_head_dim + c.v_head_dim;
  const auto at = [&](std::int64_t head, std::int64_t row, std::int64_t r) {
    return kv_b[static_cast<std::size_t>((head * per_head + row) * rank + r)];
  };
  std::vector<float> keys;
  std::vector<float> values;
  for (std::int64_t h = 0; h < c.num_attention_heads; ++h) {
    for (std::int64_t r = 0; r < rank; ++r) {
      for (std::int64_t n = 0; n < c.qk_nope_head_dim; ++n) keys.push_back(at(h, n, r));
    }
    for (std::int64_t v = 0; v < c.v_head_dim; ++v) {
      for (std::int64_t r = 0; r < rank; ++r) values.push_back(at(h, c.qk_nope_head_dim + v, r));
    }
  }
  EXPECT_EQ(Bytes(model, k_b), Expected(keys, k_b));
  EXPECT_EQ(Bytes(model, v_b), Expected(values, v_b));
  // A range that begins within one head and ends within the next.
  const std::uint64_t row = DataBytes(k_b.dtype, k_b.cols());
  std::vector<std::byte> part(row * static_cast<std::uint64_t>(rank));
  const std::uint64_t offset = row * static_cast<std::uint64_t>(rank / 2 + 1);
  model.source->Read(k_b, Piece::kData, offset, part);
  EXPECT_EQ(std::memcmp(part.data(), Bytes(model, k_b).data() + offset, part.size()), 0);
}

TEST(QuantizedModel, KeepsWhatTheRecipeDoesNotName) {
  const Model source = OpenCheckpoint(kDemo);
  Recipe recipe;
  recipe.by_role[static_cast<std::size_t>(Role::kRouted)] = DType::kQ4_0;
  const Model model = Quantized(source, recipe).model;
  ASSERT_EQ(model.tensors.all().size(), source.tensors.all().size());
  for (std::size_t i = 0; i < model.tensors.all().size(); ++i) {
    const TensorInfo& ours = model.tensors.all()[i];
    const TensorInfo& theirs = source.tensors.all()[i];
    EXPECT_EQ(ours.name, theirs.name);
    if (ours.role == Role::kRouted) {
      EXPECT_EQ(ours.dtype, DType::kQ4_0);
    } else {
      EXPECT_EQ(ours.dtype, theirs.dtype) << ours.name;
      EXPECT_EQ(ours.has_scale, theirs.has_scale) << ours.name;
      EXPECT_EQ(Bytes(model, ours), Bytes(source, theirs)) << ours.name;
    }
  }
}

TEST(QuantizedModel, NamesWhatDoesNotFit) {
  const QuantizedModel quantized = Quantized(OpenSynthetic("deepseek-v2-lite"), Mix("q4_k_m"));
  bool found = false;
  for (const UnfitFormat& unfit : quantized.unfit) {
    EXPECT_NE(unfit.cols % BlockElements(unfit.wanted), 0);
    EXPECT_EQ(unfit.cols % BlockElements(unfit.format), 0);
    if (unfit.cols != 1408 || unfit.wanted != DType::kQ4_K) continue;
    found = true;
    EXPECT_EQ(unfit.format, FittingFormat(DType::kQ4_K, 1408));
    EXPECT_EQ(unfit.tensors % 64, 0);
    EXPECT_NE(Describe(unfit).find("rows of 1408"), std::string::npos);
  }
  EXPECT_TRUE(found);
}

TEST(QuantizedModel, ReadersDoNotDisturbEachOther) {
  const Model model = Quantized(OpenCheckpoint(kDemo), Mix("q6_k")).model;
  const TensorInfo& tensor = model.tensors.Get(Role::kHead, Part::kLmHead);
  const std::vector<std::byte> whole = Bytes(model, tensor);
  std::vector<std::byte> parts(whole.size());
  {
    std::vector<std::jthread> threads;
    const std::size_t share = whole.size() / 4;
    for (std::size_t i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        model.source->Read(tensor, Piece::kData, i * share,
                           std::span(parts).subspan(i * share, share));
      });
    }
  }
  EXPECT_EQ(parts, whole);
}

TEST(QuantizedModel, QuantisesWhatIsQuantisedAlready) {
  const Model eight = Quantized(OpenCheckpoint(kDemo), Mix("q8_0")).model;
  const Model four = Quantized(eight, Mix("q4_0")).model;
  const TensorInfo& from = eight.tensors.Get(Role::kAttention, Part::kKB, 1);
  const TensorInfo& to = four.tensors.Get(Role::kAttention, Part::kKB, 1);
  EXPECT_EQ(to.dtype, DType::kQ4_0);
  EXPECT_EQ(Bytes(four, to), Expected(Values(eight, from), to));
}

// Of multi-head attention, the halves of each head are interleaved for GGUF.
TEST(QuantizedModel, InterleavesTheRowsOfMultiHeadAttention) {
  const Model source = OpenSynthetic("deepseek-moe-16b:layers=1:vocab=512");
  const Model model = QuantizedForGguf(source, Mix("bf16"), KvbForm::kSplit).model;
  const std::int64_t d = source.config.qk_head_dim();
  for (const Part part : {Part::kQ, Part::kK}) {
    const TensorInfo& ours = model.tensors.Get(Role::kAttention, part, 0);
    const TensorInfo& theirs = source.tensors.Get(Role::kAttention, part, 0);
    const std::vector<float> got = Values(model, ours);
    const std::vector<float> want = Values(source, theirs);
    const std::int64_t cols = ours.cols();
    for (std::int64_t row = 0; row < ours.rows(); ++row) {
      const std::int64_t in_head = row % d;
      const std::int64_t from = row - in_head + in_head % 2 * (d / 2) + in_head / 2;
      EXPECT_EQ(std::memcmp(&got[static_cast<std::size_t>(row * cols)],
                            &want[static_cast<std::size_t>(from * cols)],
                            static_cast<std::size_t>(cols) * sizeof(float)),
                0)
          << "row " << row;
    }
  }
}

TEST(QuantizedModel, GgufHasF32VectorsAndNoFp8AndNoMtp) {
  const Model source = OpenCheckpoint(kDemo);
  const Model model = QuantizedForGguf(source, {}, KvbForm::kJoint).model;
  for (const TensorInfo& tensor : model.tensors.all()) {
    EXPECT_NE(tensor.role, Role::kMtp);
    EXPECT_NE(tensor.dtype, DType::kF8E4M3) << tensor.name;
    EXPECT_TRUE(IsQuantizable(tensor) || tensor.dtype == DType::kF32) << tensor.name;
  }
  const TensorInfo& norm = model.tensors.Get(Role::kAttention, Part::kKvANorm, 1);
  EXPECT_EQ(Values(model, norm),
            Values(source, source.tensors.Get(Role::kAttention, Part::kKvANorm, 1)));
}

}  // namespace
}  // namespace tandem
