// ctest: unit
#include "model/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "memory/error.h"

namespace tandem {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;
using Special = Tokenizer::Special;

const std::string kGolden = TANDEM_SOURCE_DIR "/tests/golden/";
const std::string kDemo = TANDEM_SOURCE_DIR "/model/demo/tokenizer.json";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

Tokenizer Load(const std::string& path) { return Tokenizer(ReadFile(path), path); }

// The ids of many texts: uint16, little endian, each text ended by 65535.
std::vector<Ids> ReadIds(const std::string& path) {
  const std::string bytes = ReadFile(path);
  std::vector<Ids> all(1);
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    const int id = static_cast<unsigned char>(bytes[i]) | static_cast<unsigned char>(bytes[i + 1])
                                                              << 8;
    if (id == 65535) {
      all.emplace_back();
    } else {
      all.back().push_back(id);
    }
  }
  all.pop_back();
  return all;
}

// The demo model's tokenizer.json, changed by `edit`.
template <class Edit>
std::string Edited(Edit edit) {
  static const json demo = json::parse(ReadFile(kDemo));
  json changed = demo;
  edit(changed);
  return changed.dump();
}

std::string MessageFor(const std::string& text) {
  try {
    Tokenizer tokenizer(text, "tokenizer.json");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no error";
}

template <class Edit>
std::string MessageOf(Edit edit) {
  return MessageFor(Edited(edit));
}

void ExpectContains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

TEST(Tokenizer, GivesTheIdsOfTheShortGoldens) {
  const Tokenizer tokenizer = Load(kDemo);
  const json cases = json::parse(ReadFile(kGolden + "tokenizer_golden.json"));
  ASSERT_GT(cases.size(), 20u);
  for (const json& one : cases) {
    const auto ids = one["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.Encode(one["text"].get<std::string>()), ids) << one["text"];
    EXPECT_EQ(tokenizer.Decode(ids, true), one["decoded"].get<std::string>());
  }
}

class MixedText : public testing::TestWithParam<const char*> {};

TEST_P(MixedText, GivesTheIdsOfTheHuggingFaceLibrary) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = Load(name == "demo" ? kDemo : kGolden + "tokenizer_v2.json");
  const json texts = json::parse(ReadFile(kGolden + "tokenizer_mixed.json"));
  const std::vector<Ids> ids = ReadIds(kGolden + "tokenizer_mixed." + name + ".ids");
  ASSERT_EQ(texts.size(), ids.size());
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    bytes += text.size();
    ASSERT_EQ(tokenizer.Encode(text), ids[i]) << "text " << i << ": " << texts[i];
    ASSERT_EQ(tokenizer.Decode(ids[i], true), text);
  }
  EXPECT_GT(bytes, 200'000u);
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, MixedText, testing::Values("demo", "v2"),
                         [](const auto& each) { return std::string(each.param); });

TEST(Tokenizer, GivesTheIdsOfTheLibraryForOtherPreTokenizersAndAddedTokens) {
  const json goldens = json::parse(ReadFile(kGolden + "tokenizer_variants.json"));
  ASSERT_GT(goldens["cases"].size(), 40u);
  for (const json& one : goldens["cases"]) {
    const std::string text = Edited([&](json& whole) {
      if (!one["pre_tokenizer"].is_null()) whole["pre_tokenizer"] = one["pre_tokenizer"];
      whole["added_tokens"] = one["added_tokens"];
      if (!one.value("ignore_merges", false)) return;
      whole["model"]["ignore_merges"] = true;
      whole["model"]["vocab"]["Ġzebra"] = 2048;
    });
    const Tokenizer tokenizer(text, "variant");
    for (std::size_t i = 0; i < goldens["texts"].size(); ++i) {
      ASSERT_EQ(tokenizer.Encode(goldens["texts"][i].get<std::string>()), one["ids"][i].get<Ids>())
          << one["pre_tokenizer"] << one["added_tokens"] << " on " << goldens["texts"][i];
    }
  }
}

// F39
TEST(Tokenizer, ControlTokensInTextStayText) {
  const Tokenizer tokenizer = Load(kDemo);
  const std::string text = "a<｜Assistant｜>b<｜end▁of▁sentence｜>";
  const Ids ids = tokenizer.Encode(text, Special::kText);
  for (const std::int32_t id : ids) EXPECT_GE(id, 5) << "a control token";
  EXPECT_EQ(tokenizer.Decode(ids), text);
  const Ids parsed = tokenizer.Encode(text, Special::kParse);
  EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 4), 1);
  EXPECT_EQ(parsed.back(), 1);
}

TEST(Tokenizer, SingleLettersAmongTheAddedTokensAreText) {
  const Tokenizer tokenizer = Load(kGolden + "tokenizer_v2.json");
  const std::int32_t letter = tokenizer.Find("ö").value();
  for (const Special special : {Special::kText, Special::kParse}) {
    const Ids ids = tokenizer.Encode("schön", special);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), letter), 1);
    EXPECT_EQ(tokenizer.Decode(ids), "schön");
  }
}

TEST(Tokenizer, DecodeLeavesOutSpecialTokensUnlessAsked) {
  const Tokenizer tokenizer = Load(kDemo);
  const Ids ids = tokenizer.Encode("<｜User｜>Hi<｜end▁of▁sentence｜>");
  EXPECT_EQ(tokenizer.Decode(ids), "Hi");
  EXPECT_EQ(tokenizer.Decode(ids, true), "<｜User｜>Hi<｜end▁of▁sentence｜>");
  EXPECT_TRUE(tokenizer.IsSpecial(1));
  EXPECT_FALSE(tokenizer.IsSpecial(5));
  EXPECT_EQ(tokenizer.Bytes(1), "<｜end▁of▁sentence｜>");
  EXPECT_EQ(tokenizer.vocab_size(), 2048);
  EXPECT_EQ(tokenizer.Find("<｜User｜>"), 3);
  EXPECT_EQ(tokenizer.Find("no such token"), std::nullopt);
  EXPECT_THROW(tokenizer.Bytes(-1), UsageError);
  EXPECT_THROW(tokenizer.Bytes(2048), UsageError);
}

// F37: invalid UTF-8, NUL, BOM, lone surrogates.
TEST(Tokenizer, AnyBytesDecodeBackExactly) {
  const Tokenizer tokenizer = Load(kDemo);
  std::uint64_t state = 1;
  for (int round = 0; round < 300; ++round) {
    std::string bytes;
    for (int i = 0; i < round; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      bytes += static_cast<char>(round % 3 == 0 ? state >> 56 : (state >> 56) | 0x80);
    }
    ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(bytes)), bytes);
  }
  const std::string lone_surrogate = "a\xED\xA0\x80z";
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(lone_surrogate)), lone_surrogate);
  const std::string nul_and_bom("\xEF\xBB\xBF\0x\0", 6);
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(nul_and_bom)), nul_and_bom);
}

TEST(Tokenizer, NamesAByteThatTheVocabularyLacks) {
  const Tokenizer tokenizer = Load(kGolden + "tokenizer_v2.json");
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode("\x80z")), "\x80z");
  try {
    tokenizer.Encode("a\xFFz");
    ADD_FAILURE() << "no error";
  } catch (const UsageError& error) {
    ExpectContains(error.what(), "0xff");
  }
}

// A quadratic method would need hours for these, and minutes for a hundredth of them.
// F37: in linear time.
TEST(Tokenizer, LongTextsOfOneKindAreNoTrouble) {
  const char* kUnits[] = {"a", " ", "\n", "=", "1", "中", "\xCC\x81", "\xF0\x9F\x98\x80", "\xFF"};
  for (const bool demo : {true, false}) {
    const Tokenizer tokenizer = Load(demo ? kDemo : kGolden + "tokenizer_v2.json");
    for (const std::string unit : kUnits) {
      if (!demo && unit == "\xFF") continue;  // a byte without token there
      std::string text = "1 ";
      while (text.size() < (std::size_t{1} << (demo ? 20 : 17))) text += unit;
      ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(text + "1")), text + "1");
    }
  }
}

TEST(Tokenizer, AMillionCombiningMarksAreNoTrouble) {
  const Tokenizer tokenizer = Load(kDemo);
  std::string text = "e";
  for (int i = 0; i < 1'000'000; ++i) text += "\xCC\x81";
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(text)), text);
}

TEST(Tokenizer, EncodesFromSeveralThreads) {
  const Tokenizer tokenizer = Load(kDemo);
  const json texts = json::parse(ReadFile(kGolden + "tokenizer_mixed.json"));
  const std::vector<Ids> ids = ReadIds(kGolden + "tokenizer_mixed.demo.ids");
  std::vector<std::size_t> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 150; ++i) {
        if (tokenizer.Encode(texts[i].get<std::string>()) != ids[i]) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::size_t count : wrong) EXPECT_EQ(count, 0u);
}

TEST(TokenizerFile, NotJsonOrTooDeep) {
  ExpectContains(MessageFor("{\"model\": "), "not valid JSON");
  ExpectContains(MessageFor("\xFF{}"), "not valid JSON");
  ExpectContains(MessageFor(""), "tokenizer.json");
  ExpectContains(MessageFor("[]"), "expected a JSON object");
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  ExpectContains(MessageFor(deep), "nested deeper");
  ExpectContains(MessageFor(std::string(100'000, '[')), "not valid JSON");
  ExpectContains(MessageFor("{}"), "model");
}

TEST(TokenizerFile, OtherModelsAreRefusedByName) {
  ExpectContains(MessageOf([](json& w) { w["model"]["type"] = "Unigram"; }), "'Unigram'");
  ExpectContains(MessageOf([](json& w) { w["model"]["byte_fallback"] = true; }), "byte_fallback");
  ExpectContains(MessageOf([](json& w) { w["model"]["dropout"] = 0.1; }), "dropout");
  ExpectContains(MessageOf([](json& w) { w["model"]["end_of_word_suffix"] = "</w>"; }), "</w>");
  ExpectContains(MessageOf([](json& w) { w["normalizer"] = {{"type", "NFC"}}; }), "'NFC'");
  ExpectContains(MessageOf([](json& w) { w["decoder"] = {{"type", "Metaspace"}}; }), "'Metaspace'");
  ExpectContains(MessageOf([](json& w) { w["pre_tokenizer"] = nullptr; }), "pre_tokenizer");
  ExpectContains(MessageOf([](json& w) { w["added_tokens"][0]["single_word"] = true; }),
                 "single_word");
}

TEST(TokenizerFile, ANormalizerThatDoesNothingIsFine) {
  const json nothing = {{"type", "Sequence"}, {"normalizers", json::array()}};
  EXPECT_EQ(MessageOf([&](json& w) { w["normalizer"] = nothing; }), "no error");
}

// F35
TEST(TokenizerFile, BadVocabularyIsNamed) {
  ExpectContains(MessageOf([](json& w) { w["model"]["vocab"]["zz"] = -1; }), "'zz'");
  ExpectContains(MessageOf([](json& w) { w["model"]["vocab"]["zz"] = 4'000'000; }), "'zz'");
  ExpectContains(MessageOf([](json& w) { w["model"]["vocab"]["zz"] = "7"; }), "'zz'");
  ExpectContains(MessageOf([](json& w) { w["model"]["vocab"]["zz"] = 1000; }), "id 1000");
  ExpectContains(MessageOf([](json& w) { w["model"]["vocab"].erase("A"); }), "byte 0x41");
  std::string twice = Edited([](json&) {});
  twice.replace(twice.find("\"vocab\":{"), 9, "\"vocab\":{\"A\":5000,");
  ExpectContains(MessageFor(twice), "'A': given twice");
}

// F34, F35
TEST(TokenizerFile, BadMergesAreNamed) {
  const auto merge = [](const json& entry) {
    return MessageOf([&](json& w) { w["model"]["merges"].push_back(entry); });
  };
  ExpectContains(merge("nospace"), "merges[1787]: expected two tokens");
  ExpectContains(merge("a b c"), "merges[1787]: expected two tokens");
  ExpectContains(merge({"a"}), "merges[1787]: expected a pair");
  ExpectContains(merge(7), "merges[1787]: expected a pair");
  ExpectContains(merge({"a", "nothere"}), "'nothere' is not in the vocabulary");
  ExpectContains(merge({"Z", "Z"}), "the joined token 'ZZ'");
  ExpectContains(merge({"Ġ", "t"}), "merged twice");
}

TEST(TokenizerFile, BadAddedTokensAreNamed) {
  const auto added = [](const json& id, const std::string& content) {
    return MessageOf([&](json& w) {
      w["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", true}});
    });
  };
  EXPECT_EQ(added(2048, "<new>"), "no error");
  ExpectContains(added(-1, "<new>"), "added_tokens[5].id");
  ExpectContains(added("x", "<new>"), "added_tokens[5].id");
  ExpectContains(added(4'000'000, "<new>"), "added_tokens[5].id");
  ExpectContains(added(7, "<new>"), "'<new>' with id 7");
  ExpectContains(added(2048, "A"), "'A' with id 2048");
  ExpectContains(added(0, "<｜begin▁of▁sentence｜>"), "given twice");
  ExpectContains(added(2048, ""), "added_tokens[5].content");
  ExpectContains(added(2048, std::string(2000, 'x')), "found 2000");
}

// F36
TEST(TokenizerFile, TooLargeIsRefused) {
  const std::string large((std::size_t{256} << 20) + 1, ' ');
  ExpectContains(MessageFor(large), "256 MiB");
}

// F36
TEST(TokenizerFile, TooManyEntriesAreRefused) {
  const auto many = [](const std::string& list, std::size_t count, const std::string& entry) {
    std::string text = Edited([](json&) {});
    std::string entries;
    for (std::size_t i = 0; i < count; ++i) entries += entry;
    return MessageFor(text.replace(text.find(list), list.size(), list + entries));
  };
  ExpectContains(many("\"vocab\":{", 4'000'000, "\"A\":7,"), "more than 4000000");
  ExpectContains(many("\"merges\":[", 4'000'000, "\"a b\","), "more than 4000000");
  ExpectContains(many("\"added_tokens\":[", 70'000, "{},"), "more than 65536");
}

// F34
TEST(TokenizerFile, IdsBeyondTheEmbeddingAreRefused) {
  const std::string folder = TANDEM_SOURCE_DIR "/model/demo";
  EXPECT_EQ(ReadTokenizer(folder, 2048).vocab_size(), 2048);
  EXPECT_EQ(ReadTokenizer(folder, 4096).vocab_size(), 2048);
  try {
    ReadTokenizer(folder, 2047);
    ADD_FAILURE() << "no error";
  } catch (const CheckpointError& error) {
    ExpectContains(error.what(), "up to 2047, but vocab_size in config.json is 2047");
  }
  EXPECT_THROW(ReadTokenizer(folder + "/nowhere", 2048), SystemError);
}

}  // namespace
}  // namespace tandem
