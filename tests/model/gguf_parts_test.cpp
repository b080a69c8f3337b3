// ctest: unit
// GGUF files in parts, and every fault that these can have.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "model/gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

// Parts as gguf-split makes them: the first has the metadata.
class SplitGguf : public testing::Test {
 protected:
  static GgufBuilder Part(std::uint16_t no, std::uint16_t count, std::int32_t tensors) {
    GgufBuilder gguf;
    gguf.Pair("split.no", GgufBuilder::kU16, GgufBuilder::Bytes(no));
    gguf.Pair("split.count", GgufBuilder::kU16, GgufBuilder::Bytes(count));
    gguf.Pair("split.tensors.count", GgufBuilder::kI32, GgufBuilder::Bytes(tensors));
    if (no == 0) gguf.String("general.architecture", "deepseek2");
    const std::string name = "tensor " + std::to_string(no);
    gguf.Add({name, {4}, 0, std::string(16, static_cast<char>('a' + no)), {}, {}});
    return gguf;
  }
  static std::string NameOf(int no, int count) {
    return fmt::format("model-{:05}-of-{:05}.gguf", no + 1, count);
  }
  void Write(int no, const GgufBuilder& part) { folder_.Write(NameOf(no, 3), part.Build()); }
  void WriteAll() {
    for (std::uint16_t i = 0; i < 3; ++i) Write(i, Part(i, 3, 3));
  }
  void ExpectRefused(std::initializer_list<std::string_view> words, int named = 0) {
    ExpectBadData(words, [&] { Gguf{folder_ / NameOf(named, 3)}; });
  }

  TempFolder folder_;
};

TEST_F(SplitGguf, AnyPartOpensAll) {
  WriteAll();
  for (int named = 0; named < 3; ++named) {
    const Gguf gguf(folder_ / NameOf(named, 3));
    EXPECT_EQ(gguf.metadata().String("general.architecture"), "deepseek2");
    ASSERT_EQ(gguf.tensors().size(), 3u);
    ASSERT_EQ(gguf.files().size(), 3u);
    const GgufTensor* last = gguf.Find("tensor 2");
    ASSERT_NE(last, nullptr);
    EXPECT_EQ(last->file, 2);
    std::string data(16, '\0');
    gguf.files()[2].PReadExact(last->offset, std::as_writable_bytes(std::span(data)));
    EXPECT_EQ(data, std::string(16, 'c'));
    EXPECT_EQ(gguf.Find("tensor 3"), nullptr);
    EXPECT_TRUE(gguf.warnings().empty());
  }
}

TEST_F(SplitGguf, F16MissingParts) {
  Write(1, Part(1, 3, 3));
  ExpectRefused({"missing parts (2)", NameOf(0, 3), NameOf(2, 3)}, 1);
}

TEST_F(SplitGguf, F16CountOfParts) {
  WriteAll();
  Write(1, Part(1, 4, 3));
  ExpectRefused({NameOf(1, 3), "part 2 of 3", "2 of 4"});
  Write(1, Part(2, 3, 3));
  ExpectRefused({NameOf(1, 3), "part 2 of 3", "3 of 3"});
  folder_.Write("model-00001-of-65535.gguf", Part(0, 65535, 3).Build());
  ExpectBadData({"missing parts (65534)", "model-00002-of-65535.gguf", "more"},
                [&] { Gguf{folder_ / "model-00001-of-65535.gguf"}; });
  GgufBuilder none = Part(0, 3, 3);
  none.Without("split.no");
  Write(0, none);
  ExpectRefused({"split.no", "missing"});
}

TEST_F(SplitGguf, F16PartsOfTwoModels) {
  WriteAll();
  Write(2, Part(2, 3, 8));
  ExpectRefused({NameOf(2, 3), "another model", "split.tensors.count"});
  GgufBuilder other = Part(2, 3, 3);
  other.String("general.architecture", "llama");
  Write(2, other);
  ExpectRefused({NameOf(2, 3), "another model", "general.architecture"});
  other = Part(2, 3, 3);
  other.At("tensor 2").name = "tensor 0";
  Write(2, other);
  ExpectRefused({"tensors in two parts", "tensor 0"});
  other = Part(2, 3, 3);
  other.Add({"one more", {4}, 0, std::string(16, 'x'), {}, {}});
  Write(2, other);
  ExpectRefused({"expected 3 tensors", "found 4"});
}

TEST_F(SplitGguf, F16NamesThatDoNotLeadToTheOthers) {
  folder_.Write("renamed.gguf", Part(0, 3, 3).Build());
  ExpectBadData({"renamed.gguf", "part 1 of 3", "-00001-of-00003.gguf"},
                [&] { Gguf{folder_ / "renamed.gguf"}; });
}

}  // namespace
}  // namespace tandem::test
