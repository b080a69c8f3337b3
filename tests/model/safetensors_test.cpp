// ctest: unit
#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

using test::ExpectBadData;
using test::TempFolder;

std::string WithLength(std::uint64_t length, std::string_view rest) {
  std::string text(sizeof(length), '\0');
  std::memcpy(text.data(), &length, sizeof(length));
  return text.append(rest);
}

std::string FileText(std::string_view json, std::size_t data_bytes) {
  return WithLength(json.size(), json) + std::string(data_bytes, 'x');
}

SafetensorsHeader Open(std::string_view text) {
  const TempFolder folder;
  return ReadSafetensorsHeader(File::Open(folder.Write("t.safetensors", text)));
}

// Expects that a file of this header and that many data bytes is refused.
void ExpectRefused(std::string_view json, std::size_t data_bytes,
                   std::initializer_list<std::string_view> words) {
  SCOPED_TRACE(json.substr(0, 200));
  ExpectBadData({"t.safetensors"}, [&] { Open(FileText(json, data_bytes)); });
  ExpectBadData(words, [&] { Open(FileText(json, data_bytes)); });
}

constexpr std::string_view kTwo =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";

TEST(Safetensors, ReadsAHeader) {
  const SafetensorsHeader header = Open(FileText(kTwo, 16));
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  const SafetensorsEntry* b = header.Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::kBF16);
  EXPECT_EQ(b->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(b->offset, 8 + kTwo.size() + 4);
  EXPECT_EQ(b->bytes, 12u);
  EXPECT_EQ(header.Find("a")->bytes, 4u);  // rank 0: one element
  EXPECT_EQ(header.Find("c"), nullptr);
}

TEST(Safetensors, AcceptsPaddingAndNoTensors) {
  EXPECT_EQ(Open(FileText("{}      ", 0)).tensors.size(), 0u);
}

// F20
TEST(Safetensors, RefusesImpossibleLengths) {
  ExpectBadData({"too small", "0 of at least 8"}, [] { Open(""); });
  ExpectBadData({"too small", "7 of at least 8"}, [] { Open("1234567"); });
  ExpectBadData({"header length", "found 0"}, [] { Open(WithLength(0, "{}")); });
  ExpectBadData({"header length", "found 100000001"}, [] { Open(WithLength(100'000'001, "{}")); });
  ExpectBadData({"header length", "found 18446744073709551615"},
                [] { Open(WithLength(~std::uint64_t{0}, "{}")); });
  ExpectBadData({"truncated", "10 of 58 bytes"}, [] { Open(WithLength(50, "{}")); });
}

// F15, F31: cut anywhere, the file is refused.
TEST(Safetensors, RefusesEveryTruncation) {
  const std::string whole = FileText(kTwo, 16);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    ExpectBadData({"t.safetensors"}, [&] { Open(whole.substr(0, size)); });
  }
  ExpectBadData({"truncated", fmt::format("{} of {} bytes", whole.size() - 1, whole.size())},
                [&] { Open(whole.substr(0, whole.size() - 1)); });
  ExpectBadData({"3 bytes after the last tensor"}, [&] { Open(whole + "123"); });
}

TEST(Safetensors, RecognisesGitLfsPointers) {
  ExpectBadData({"git-lfs pointer", "git lfs pull"}, [] {
    Open("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n");
  });
}

// F21
TEST(Safetensors, RefusesWhatIsNoJsonObject) {
  ExpectRefused("[]", 0, {"starts with '{'"});
  ExpectRefused(" {}", 0, {"starts with '{'"});
  ExpectRefused("{\"a\":}", 0, {"not valid JSON"});
  ExpectRefused("{\"\xff\":{}}", 0, {"not valid JSON"});
  ExpectRefused("{} {}", 0, {"not valid JSON"});
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  for (int i = 0; i < 100'000; ++i) deep += "]";
  ExpectRefused(deep + "}", 0, {"nested deeper than 64"});
}

// F22
TEST(Safetensors, RefusesDoubledNames) {
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                2, {": a:", "given twice"});
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", 1,
                {"a.shape", "given twice"});
  // The same name, once with an escape.
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                R"("\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                2, {": a:", "given twice"});
}

std::string Entry(std::string_view name, std::int64_t begin, std::int64_t end) {
  return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name,
                     end - begin, begin, end);
}
std::string Header(std::initializer_list<std::string> entries) {
  return fmt::format("{{{}}}", fmt::join(entries, ","));
}

// F23
TEST(Safetensors, RefusesOffsetsThatDoNotTile) {
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", 2,
                {"'a'", "begin <= end", "[2, 0]"});
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}})", 2, {"[begin, end]"});
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[-1,1]}})", 2, {"found -1"});
  ExpectRefused(Header({Entry("a", 0, 4), Entry("b", 3, 6)}), 6, {"'b'", "offset 3", "overlap"});
  ExpectRefused(Header({Entry("a", 0, 4), Entry("b", 0, 4)}), 4, {"overlap"});
  ExpectRefused(Header({Entry("a", 0, 4), Entry("b", 5, 6)}), 6, {"'b'", "expected 4", "a hole"});
  ExpectRefused(Header({Entry("a", 1, 4)}), 4, {"'a'", "a hole"});
  ExpectRefused(Header({Entry("a", 0, 4)}), 5, {"1 bytes after the last tensor"});
}

TEST(Safetensors, TensorsWithoutElementsSitAtBoundaries) {
  const auto header =
      Open(FileText(Header({Entry("a", 0, 4), Entry("b", 4, 6), Entry("z", 4, 4)}), 6));
  EXPECT_EQ(header.Find("z")->bytes, 0u);
  ExpectRefused(Header({Entry("a", 0, 4), Entry("b", 4, 6), Entry("z", 2, 2)}), 6, {"'z'"});
}

// F24
TEST(Safetensors, RefusesSizesThatDisagree) {
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}})", 12,
                {"'a'", "[2, 2]", "takes 16 bytes", "give 12"});
  ExpectRefused(R"({"a":{"dtype":"F8_E8M0","shape":[3],"data_offsets":[0,4]}})", 4,
                {"takes 3 bytes"});
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                {"'a'", "overflows 64 bits"});
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}})", 0,
                {"'a'", "shape"});
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, {"found 1.5"});
  ExpectRefused(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2,
                {"12 bits", "whole number of bytes"});
  EXPECT_EQ(Open(FileText(R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", 2))
                .Find("a")
                ->dtype,
            DType::kOther);
}

TEST(Safetensors, RefusesIncompleteEntries) {
  ExpectRefused(R"({"a":[1]})", 0, {"'a'", "expected an object"});
  ExpectRefused(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, {"'a'", "no dtype"});
  ExpectRefused(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, {"'a'", "shape", "nothing"});
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[1]}})", 1, {"'a'", "data_offsets", "nothing"});
  ExpectRefused(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", 1,
                {"dtype", "expected a string", "found 7"});
}

// F25: refused by whoever needs the tensor (see checkpoint_test).
TEST(Safetensors, LetsUnknownTypesThrough) {
  const auto header =
      Open(FileText(R"({"a":{"dtype":"Q3_NEW","shape":[5],"data_offsets":[0,3]}})", 3));
  EXPECT_EQ(header.Find("a")->dtype, DType::kOther);
  EXPECT_EQ(header.Find("a")->dtype_name, "Q3_NEW");
}

// F26
TEST(Safetensors, RefusesMetadataThatIsNoText) {
  ExpectRefused(R"({"__metadata__":{"a":1}})", 0, {"__metadata__.a", "found 1"});
  ExpectRefused(R"({"__metadata__":"a"})", 0, {"__metadata__", "expected an object"});
  ExpectRefused(R"({"__metadata__":{"a":"1","a":"2"}})", 0, {"__metadata__.a", "given twice"});
}

TEST(Safetensors, ReadsBackWhatItWrites) {
  const TempFolder folder;
  const std::vector<float> logits{1, -2.5f, 3, 4, 5, 6};
  const std::vector<std::int32_t> ids{7, 8, 9};
  const std::vector<SafetensorsTensor> tensors{
      {"logits", DType::kF32, {2, 3}, std::as_bytes(std::span(logits))},
      {"ids", DType::kI32, {3}, std::as_bytes(std::span(ids))},
      {"none", DType::kF32, {0, 4}, {}}};
  WriteSafetensors(folder / "out", tensors, {{"format", "pt"}});
  const SafetensorsFile file(folder / "out");
  EXPECT_EQ(file.Floats("logits"), logits);
  EXPECT_EQ(file.Ints("ids"), ids);
  EXPECT_EQ(file.Get("logits").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.Get("logits").offset % 8, 0u);
  EXPECT_EQ(file.Bytes("none").size(), 0u);
  EXPECT_EQ(file.header().metadata.at("format"), "pt");
  ExpectBadData({"/out", "no tensor 'x'"}, [&] { file.Bytes("x"); });
  ExpectBadData({"/out", "'ids'", "expected dtype F32", "found I32"}, [&] { file.Floats("ids"); });
}

TEST(Safetensors, WriterChecksSizes) {
  const TempFolder folder;
  const SafetensorsTensor wrong{"a", DType::kF32, {2}, {}};
  EXPECT_THROW(WriteSafetensors(folder / "out", std::span(&wrong, 1)), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

TEST(Safetensors, ReadsTheGoldens) {
  const std::filesystem::path golden = TANDEM_SOURCE_DIR "/tests/golden/v2-lite/golden.safetensors";
  const SafetensorsFile file(golden);
  EXPECT_EQ(file.Ints("prompt_ids").size(), 96u);
  EXPECT_EQ(file.Floats("logits").size(), 96u * 384);
}

}  // namespace
}  // namespace tandem
