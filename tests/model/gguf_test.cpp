// ctest: unit
// The container of GGUF files, and every fault that it can have (docs: what bad input gets).
#include "model/gguf.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "tests/support/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

using Edit = std::function<void(GgufBuilder&)>;

// Two tensors and a value of each kind.
GgufBuilder Small() {
  GgufBuilder gguf;
  gguf.String("general.architecture", "deepseek2").U32("a.number", 7).F32("a.real", 1e-6F);
  gguf.Bool("a.bool", true).I32s("numbers", {3, -4}).Strings("words", {"one", "", "three"});
  gguf.Add({"first", {4, 2}, 0, std::string(32, '\1'), {}, {}});
  gguf.Add({"second", {32, 2}, 8, std::string(68, '\2'), {}, {}});  // Q8_0
  return gguf;
}

GgufHeader ParseBytes(const std::string& bytes) {
  const auto read = [&](std::uint64_t offset, std::span<std::byte> dst) {
    ASSERT_LE(offset + dst.size(), bytes.size());
    std::memcpy(dst.data(), bytes.data() + offset, dst.size());
  };
  return ParseGguf({"small.gguf", bytes.size(), read});
}

// What comes of the small file with a change is refused with these words and the file's name.
void ExpectRefused(std::initializer_list<std::string_view> words, const Edit& edit) {
  GgufBuilder gguf = Small();
  edit(gguf);
  const std::string bytes = gguf.Build();
  ExpectBadData(words, [&] { ParseBytes(bytes); });
  ExpectBadData({"small.gguf"}, [&] { ParseBytes(bytes); });
}

TEST(Gguf, ReadsWhatIsThere) {
  const std::string bytes = Small().Build();
  const GgufHeader header = ParseBytes(bytes);
  EXPECT_EQ(header.version, 3u);
  EXPECT_EQ(header.alignment, 32u);
  const GgufMetadata& m = header.metadata;
  EXPECT_EQ(m.entries().size(), 6u);
  EXPECT_EQ(m.String("general.architecture"), "deepseek2");
  EXPECT_EQ(m.Int("a.number", {0, 9}), 7);
  EXPECT_EQ(m.Real("a.real", {0, 1}), 1e-6);  // and not the f32 next to it
  EXPECT_TRUE(m.Bool("a.bool", false));
  EXPECT_EQ(m.Ints("numbers"), (std::vector<std::int64_t>{3, -4}));
  EXPECT_EQ(m.Strings("words"), (std::vector<std::string_view>{"one", "", "three"}));
  ASSERT_EQ(header.tensors.size(), 2u);
  const GgufTensor& second = header.tensors[1];
  EXPECT_EQ(second.name, "second");
  EXPECT_EQ(second.ne, (std::vector<std::int64_t>{32, 2}));
  EXPECT_EQ(second.dtype, DType::kQ8_0);
  EXPECT_EQ(second.bytes, 68u);
  EXPECT_EQ(bytes.substr(second.offset), std::string(68, '\2'));
  EXPECT_EQ(header.data_end, bytes.size());
}

TEST(Gguf, GettersSayWhatAbsenceMeans) {
  const GgufHeader header = ParseBytes(Small().Build());
  const GgufMetadata& m = header.metadata;
  EXPECT_EQ(m.Int("none", {0, 9}, 5), 5);
  EXPECT_EQ(m.Real("none", {0, 9}, 0.5), 0.5);
  EXPECT_TRUE(m.Bool("none", true));
  EXPECT_EQ(m.String("none", "x"), "x");
  EXPECT_TRUE(m.Strings("none").empty());
  EXPECT_FALSE(m.Has("none"));
  ExpectBadData({"small.gguf", "none", "missing"}, [&] { m.Int("none", {0, 9}); });
  ExpectBadData({"small.gguf", "none", "missing"}, [&] { m.String("none"); });
}

TEST(Gguf, AnArrayOfOneNumberAgainAndAgainServesAsThatNumber) {
  GgufBuilder gguf = Small();
  gguf.I32s("same", {5, 5, 5}).I32s("mixed", {5, 6}).I32s("empty", {});
  const GgufHeader header = ParseBytes(gguf.Build());
  EXPECT_EQ(header.metadata.Int("same", {0, 9}), 5);
  for (const char* key : {"mixed", "empty"}) {
    ExpectBadData({key, "array of i32"}, [&] { header.metadata.Int(key, {0, 9}); });
  }
}

TEST(Gguf, VersionTwoIsTheSameLayout) {
  GgufBuilder gguf = Small();
  gguf.version = 2;
  EXPECT_EQ(ParseBytes(gguf.Build()).tensors.size(), 2u);
}

TEST(Gguf, F01MagicAndVersion) {
  ExpectRefused({"'GGUF'", "'GGML'"}, [](auto& g) { g.magic = "GGML"; });
  ExpectRefused({"git-lfs"}, [](auto& g) { g.magic = "version https://git-lfs"; });
  for (const std::uint32_t version : {0u, 1u, 4u, 1000u}) {
    ExpectRefused({"version " + std::to_string(version), "supported: 2 and 3"},
                  [&](auto& g) { g.version = version; });
  }
}

TEST(Gguf, F02BigEndian) {
  for (const std::uint32_t version : {2u, 3u}) {
    ExpectRefused({"endian", "version " + std::to_string(version)},
                  [&](auto& g) { g.version = __builtin_bswap32(version); });
  }
}

TEST(Gguf, F03CountsThatCannotBe) {
  for (const std::uint64_t count :
       {~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{1000}}) {
    ExpectRefused({"number of tensors"}, [&](auto& g) { g.tensor_count = count; });
    ExpectRefused({"number of metadata keys"}, [&](auto& g) { g.pair_count = count; });
  }
}

// A length that is taken at its word would ask for 2^40 bytes.
TEST(Gguf, F04Lengths) {
  const auto text = [](std::uint64_t length) { return GgufBuilder::Bytes(length) + "abc"; };
  for (const std::uint64_t length : {std::uint64_t{1} << 20, std::uint64_t{1} << 29}) {
    ExpectRefused({"truncated", "bytes", "left"},
                  [&](auto& g) { g.Pair("k", GgufBuilder::kString, text(length)); });
  }
  for (const std::uint64_t length : {std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    ExpectRefused({"expected at most"},
                  [&](auto& g) { g.Pair("k", GgufBuilder::kString, text(length)); });
  }
  ExpectRefused({"a key", "expected at most 65535"},
                [](auto& g) { g.Pair(std::string(70000, 'k'), GgufBuilder::kU8, "\1"); });
}

TEST(Gguf, F05NamesEmptyOrTwice) {
  ExpectRefused({"empty key"}, [](auto& g) { g.U32("", 1); });
  ExpectRefused({"'a.number'", "twice"}, [](auto& g) { g.F32("a.number", 1); });
  ExpectRefused({"empty name"}, [](auto& g) { g.At("first").name = ""; });
  ExpectRefused({"'second'", "twice"}, [](auto& g) { g.At("first").name = "second"; });
}

TEST(Gguf, F06ValueTypes) {
  ExpectRefused({"'k'", "unknown value type 13"}, [](auto& g) { g.Pair("k", 13, "xxxx"); });
  ExpectRefused({"'k'", "unknown value type 4294967295"},
                [](auto& g) { g.Pair("k", 0xFFFFFFFF, "xxxx"); });
  const auto array = [](std::uint32_t type, std::uint64_t count) {
    return GgufBuilder::Bytes(type) + GgufBuilder::Bytes(count) + std::string(64, '\0');
  };
  ExpectRefused({"'k'", "array of arrays"},
                [&](auto& g) { g.Pair("k", GgufBuilder::kArray, array(GgufBuilder::kArray, 1)); });
  for (const std::uint32_t type : {GgufBuilder::kU8, GgufBuilder::kU64, GgufBuilder::kString}) {
    for (const std::uint64_t count :
         {~std::uint64_t{0}, std::uint64_t{1} << 61, std::uint64_t{999}}) {
      ExpectRefused({"'k'", "array of", "elements cannot be"},
                    [&](auto& g) { g.Pair("k", GgufBuilder::kArray, array(type, count)); });
    }
  }
  ExpectRefused({"'k'", "bool"}, [](auto& g) { g.Pair("k", GgufBuilder::kBool, "\2"); });
}

TEST(Gguf, F07ValuesOfTheWrongType) {
  ExpectRefused({"general.alignment", "expected u32", "i32"}, [](auto& g) {
    g.Pair("general.alignment", GgufBuilder::kI32, GgufBuilder::Bytes(32));
  });
  const GgufHeader header = ParseBytes(Small().Build());
  const GgufMetadata& m = header.metadata;
  ExpectBadData({"a.real", "f32"}, [&] { m.Int("a.real", {0, 9}); });
  ExpectBadData({"a.number", "u32"}, [&] { m.Real("a.number", {0, 9}); });
  ExpectBadData({"a.number", "expected bool", "u32"}, [&] { m.Bool("a.number", true); });
  ExpectBadData({"numbers", "expected string", "array of i32"}, [&] { m.String("numbers"); });
  ExpectBadData({"a.bool", "expected array", "bool"}, [&] { m.Ints("a.bool"); });
  ExpectBadData({"words", "array of string"}, [&] { m.Ints("words"); });
  ExpectBadData({"numbers", "array of i32"}, [&] { m.Strings("numbers"); });
}

TEST(Gguf, NumbersOutOfRange) {
  GgufBuilder gguf = Small();
  gguf.Pair("large", GgufBuilder::kU64, GgufBuilder::Bytes(~std::uint64_t{0}));
  gguf.F32("nan", std::numeric_limits<float>::quiet_NaN());
  gguf.F32("infinite", std::numeric_limits<float>::infinity());
  const GgufHeader header = ParseBytes(gguf.Build());
  ExpectBadData({"a.number", "from 0 to 6", "7"}, [&] { header.metadata.Int("a.number", {0, 6}); });
  ExpectBadData({"large"}, [&] { header.metadata.Int("large", {0, INT64_MAX}); });
  ExpectBadData({"nan", "nan"}, [&] { header.metadata.Real("nan", {0, 9}); });
  ExpectBadData({"infinite", "inf"}, [&] { header.metadata.Real("infinite", {0, 9}); });
}

TEST(Gguf, F08Alignment) {
  for (const std::uint32_t alignment : {0u, 3u, 48u, 1u << 21, 0xFFFFFFFFu}) {
    ExpectRefused({"general.alignment", "power of two", std::to_string(alignment)},
                  [&](auto& g) { g.U32("general.alignment", alignment); });
  }
  for (const std::uint32_t alignment : {1u, 64u, 1u << 12}) {
    GgufBuilder gguf = Small();
    gguf.alignment = alignment;
    const std::string bytes = gguf.U32("general.alignment", alignment).Build();
    EXPECT_EQ(bytes.substr(ParseBytes(bytes).tensors[1].offset), std::string(68, '\2'));
  }
}

TEST(Gguf, F09Dimensions) {
  for (const std::uint32_t dims : {0u, 5u, 0xFFFFFFFFu}) {
    ExpectRefused({"'first'", std::to_string(dims) + " dimensions"},
                  [&](auto& g) { g.At("first").dims = dims; });
  }
}

TEST(Gguf, F10SizesThatAreNegativeOrZero) {
  ExpectRefused({"'first'", "negative", "-4"}, [](auto& g) { g.At("first").ne = {-4, 2}; });
  ExpectRefused({"'first'", "negative"}, [](auto& g) { g.At("first").ne = {4, INT64_MIN}; });
  GgufBuilder gguf = Small();
  gguf.Add({"nothing", {0, 5}, 8, "", {}, {}}).Add({"nor here", {32, 0}, 8, "", {}, {}});
  const GgufHeader header = ParseBytes(gguf.Build());
  EXPECT_EQ(header.tensors[2].bytes, 0u);  // harmless until such a tensor is needed
  EXPECT_EQ(header.tensors[3].bytes, 0u);
}

TEST(Gguf, F11SizesThatOverflow) {
  const std::int64_t huge = std::int64_t{1} << 62;
  for (const auto& ne : std::vector<std::vector<std::int64_t>>{
           {huge, 4}, {huge}, {1 << 30, 1 << 30, 1 << 30, 1 << 30}, {INT64_MAX, INT64_MAX}}) {
    ExpectRefused({"'first'", "overflows"}, [&](auto& g) { g.At("first").ne = ne; });
  }
  ExpectRefused({"'first'", "overflows"}, [&](auto& g) { g.At("first").ne = {4, 2, huge}; });
}

TEST(Gguf, F12RowsThatAreNoWholeBlocks) {
  ExpectRefused({"'second'", "33", "Q8_0", "32"}, [](auto& g) { g.At("second").ne = {33, 2}; });
  ExpectRefused({"'second'", "Q4_K", "256"}, [](auto& g) { g.At("second").type = 12; });
}

TEST(Gguf, F13TypesThatAreUnknownOrGone) {
  for (const std::uint32_t type : {4u, 5u, 31u, 38u, 99u, 0xFFFFFFFFu}) {
    ExpectRefused({"'first'", "type " + std::to_string(type), "Q4_K", "MXFP4"},
                  [&](auto& g) { g.At("first").type = type; });
  }
  ExpectRefused({"Q4_2"}, [](auto& g) { g.At("first").type = 4; });
  GgufBuilder gguf = Small();
  gguf.Add({"known", {256}, 16, std::string(66, '\3'), {}, {}});  // IQ2_XXS
  const GgufHeader header = ParseBytes(gguf.Build());
  EXPECT_EQ(header.tensors[2].dtype, DType::kOther);
  EXPECT_EQ(header.tensors[2].type_name, "IQ2_XXS");
}

TEST(Gguf, F14Offsets) {
  ExpectRefused({"'second'", "33", "alignment 32"}, [](auto& g) { g.At("second").offset = 33; });
  ExpectRefused({"'second'", "do not lie in the file"},
                [](auto& g) { g.At("second").offset = 1 << 20; });
  ExpectRefused({"'second'", "do not lie in the file"},
                [](auto& g) { g.At("second").offset = 64; });  // its end does not
  ExpectRefused({"'second'", "do not lie in the file"},
                [](auto& g) { g.At("second").offset = ~std::uint64_t{0} - 31; });
  ExpectRefused({"'second'", "inside tensor 'first'"}, [](auto& g) {
    g.At("second").offset = 0;
    g.At("second").data += std::string(64, '\0');
  });
}

// Whatever is missing at the end is missed.
TEST(Gguf, F15TruncatedAnywhere) {
  const std::string whole = Small().Build();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::string part = whole.substr(0, size);
    ExpectBadData({"small.gguf"}, [&] { ParseBytes(part); });
    if (HasFailure()) FAIL() << size << " of " << whole.size() << " bytes";
  }
  ParseBytes(whole);
}

// Every bit of the header, one after the other: an error of the one kind, or a header that is sane.
TEST(Gguf, AnyFlippedBitIsHarmless) {
  std::string bytes = Small().Build();
  const std::uint64_t data = ParseBytes(bytes).data_start;
  int accepted = 0;
  for (std::uint64_t bit = 0; bit < 8 * data; ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    try {
      for (const GgufTensor& tensor : ParseBytes(bytes).tensors) {
        ASSERT_LE(tensor.offset, bytes.size());
        ASSERT_LE(tensor.bytes, bytes.size() - tensor.offset);
      }
      ++accepted;
    } catch (const CheckpointError&) {
    }
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
  }
  EXPECT_GT(accepted, 0);  // letters in keys and names, for example
}

// As many tokens and merges as V3 has; a method that is quadratic in them would need minutes. The
// time is recorded, not judged.
TEST(Gguf, LongListsOfStrings) {
  std::vector<std::string> words;
  for (int i = 0; i < 130'000; ++i) words.push_back("token " + std::to_string(i));
  GgufBuilder gguf = Small();
  gguf.Strings("tokens", words).Strings("merges", words);
  const std::string bytes = gguf.Build();
  const auto start = std::chrono::steady_clock::now();
  const GgufHeader header = ParseBytes(bytes);
  const auto read = header.metadata.Strings("merges");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(read.size(), words.size());
  EXPECT_EQ(read.back(), words.back());
  RecordProperty("seconds", std::to_string(seconds.count()));
}

TEST(Gguf, F19BytesBehindTheLastTensor) {
  const TempFolder folder;
  const std::string whole = Small().Build();
  const std::string padding((32 - whole.size() % 32) % 32, '\0');
  EXPECT_TRUE(Gguf(folder.Write("padded.gguf", whole + padding)).warnings().empty());
  const Gguf longer(folder.Write("longer.gguf", whole + padding + "12345"));
  ASSERT_EQ(longer.warnings().size(), 1u);
  EXPECT_NE(longer.warnings()[0].find("longer.gguf: 5 bytes"), std::string::npos)
      << longer.warnings()[0];
  EXPECT_EQ(longer.tensors().size(), 2u);
}

TEST(Gguf, FilesThatAreNone) {
  const TempFolder folder;
  ExpectError<SystemError>(ExitCode::kMissingFile, {"none.gguf"},
                           [&] { Gguf{folder / "none.gguf"}; });
  ExpectBadData({"empty.gguf", "too small"}, [&] { Gguf{folder.Write("empty.gguf", "")}; });
  EXPECT_FALSE(IsModelFile(folder.path()));
  EXPECT_TRUE(IsModelFile(folder / "empty.gguf"));
}

}  // namespace
}  // namespace tandem::test
