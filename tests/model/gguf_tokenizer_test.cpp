// ctest: unit
// A tokenizer in GGUF metadata gives the ids of the same tokenizer in tokenizer.json.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "model/chat_format.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/tokenizer_gguf.h"
#include "model/utf8.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_model.h"
#include "tests/support/temp_folder.h"

namespace tandem::test {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::string kGolden = TANDEM_SOURCE_DIR "/tests/golden/";
const std::string kDemo = TANDEM_SOURCE_DIR "/model/demo/tokenizer.json";
constexpr std::int64_t kAnyVocab = 1 << 20;

json ReadJson(const std::string& file) { return json::parse(ReadText(file)); }

std::vector<Ids> ReadIds(const std::string& file) {
  const std::string bytes = ReadText(file);
  std::vector<Ids> all(1);
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    std::uint16_t id = 0;
    std::memcpy(&id, bytes.data() + i, 2);
    if (id == 65535) {
      all.emplace_back();
    } else {
      all.back().push_back(id);
    }
  }
  all.pop_back();
  return all;
}

class GgufTokenizer : public testing::Test {
 protected:
  static GgufBuilder Builder(const std::string& tokenizer_json, const std::string& pre) {
    GgufBuilder gguf;
    AddGgufTokenizer(gguf, ReadText(tokenizer_json), pre);
    return gguf;
  }
  std::string Write(const GgufBuilder& gguf) {
    return folder_.Write("model.gguf", gguf.Build()).string();
  }
  Tokenizer Open(const GgufBuilder& gguf, std::int64_t vocab = kAnyVocab) {
    return ReadTokenizer(Write(gguf), vocab);
  }
  Tokenizer Demo() { return Open(Builder(kDemo, "deepseek-v3")); }
  void ExpectRefused(std::initializer_list<std::string_view> words, const GgufBuilder& gguf,
                     std::int64_t vocab = kAnyVocab) {
    ExpectBadData(words, [&] { Open(gguf, vocab); });
    ExpectBadData({"model.gguf"}, [&] { Open(gguf, vocab); });
  }

  TempFolder folder_;
};

TEST_F(GgufTokenizer, GivesTheIdsOfTheShortGoldens) {
  const Tokenizer tokenizer = Demo();
  const json cases = ReadJson(kGolden + "tokenizer_golden.json");
  ASSERT_GT(cases.size(), 20u);
  for (const json& one : cases) {
    const auto ids = one["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.Encode(one["text"].get<std::string>()), ids) << one["text"];
    EXPECT_EQ(tokenizer.Decode(ids, true), one["decoded"].get<std::string>());
  }
}

TEST_F(GgufTokenizer, GivesTheIdsOfTheMixedTexts) {
  const Tokenizer tokenizer = Demo();
  const json texts = ReadJson(kGolden + "tokenizer_mixed.json");
  const std::vector<Ids> ids = ReadIds(kGolden + "tokenizer_mixed.demo.ids");
  ASSERT_EQ(texts.size(), ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(tokenizer.Encode(texts[i].get<std::string>()), ids[i]) << texts[i];
  }
}

// The golden was made with all letters that have a case in Unicode; the files that deepseek-llm
// stands for leave some out. Texts with letters of which only one of the two knows are left out.
bool SameInBoth(std::string_view text) {
  constexpr std::pair<char32_t, char32_t> kOnlyInOne[] = {
      {0x560, 0x588},   {0x10D0, 0x10FF}, {0x13A0, 0x13FF},   {0x1C80, 0x1CBF},
      {0x2C00, 0x2D2F}, {0xA600, 0xABFF}, {0x10000, 0x1FFFF},
  };
  while (!text.empty()) {
    const char32_t point = CodePoint(text);
    for (const auto& [first, last] : kOnlyInOne) {
      if (point >= first && point <= last) return false;
    }
    text.remove_prefix(StepUtf8(text).length);
  }
  return true;
}

TEST_F(GgufTokenizer, GivesTheIdsOfTheMixedTextsAsV2) {
  const Tokenizer tokenizer = Open(Builder(kGolden + "tokenizer_v2.json", "deepseek-llm"));
  const json texts = ReadJson(kGolden + "tokenizer_mixed.json");
  const std::vector<Ids> ids = ReadIds(kGolden + "tokenizer_mixed.v2.ids");
  ASSERT_EQ(texts.size(), ids.size());
  std::size_t compared = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    if (!SameInBoth(text)) continue;
    ++compared;
    ASSERT_EQ(tokenizer.Encode(text), ids[i]) << texts[i];
    ASSERT_EQ(tokenizer.Decode(ids[i], true), text);
  }
  EXPECT_GT(compared, texts.size() / 2) << "of " << texts.size();
}

TEST_F(GgufTokenizer, CoderSplitsAsItsTokenizerJsonWould) {
  json whole = ReadJson(kDemo);
  const auto split = [](const char* pattern) {
    return json{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
  };
  whole["pre_tokenizer"]["pretokenizers"] = {
      split("[\r\n]"),
      split("\\s?\\p{L}+"),
      split("\\s?\\p{P}+"),
      split("[一-龥ࠀ-一가-퟿]+"),
      {{"type", "Digits"}, {"individual_digits", true}},
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}};
  const Tokenizer reference(whole.dump(), "tokenizer.json");
  const Tokenizer tokenizer = Open(Builder(kDemo, "deepseek-coder"));
  for (const json& text : ReadJson(kGolden + "tokenizer_mixed.json")) {
    const auto one = text.get<std::string>();
    ASSERT_EQ(tokenizer.Encode(one), reference.Encode(one)) << text;
  }
}

TEST_F(GgufTokenizer, KindsOfTokens) {
  GgufBuilder gguf = Builder(kDemo, "joyai-llm");
  const Tokenizer folder(ReadText(kDemo), kDemo);
  const Tokenizer tokenizer = Open(gguf);
  EXPECT_EQ(tokenizer.vocab_size(), folder.vocab_size());
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    EXPECT_EQ(tokenizer.Bytes(id), folder.Bytes(id)) << id;
    EXPECT_EQ(tokenizer.IsSpecial(id), folder.IsSpecial(id)) << id;
  }
  EXPECT_EQ(tokenizer.Find("<｜User｜>"), 3);
  const std::string text = "a<｜Assistant｜>b";
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(text, Tokenizer::Special::kText)), text);
}

// The tokens of a test file, to be changed before they are written.
struct Lists {
  std::vector<std::string> tokens;
  Ids types;
  std::vector<std::string> merges;
};

Lists DemoLists() {
  const json whole = ReadJson(kDemo);
  Lists lists;
  lists.tokens.resize(whole["model"]["vocab"].size());
  for (const auto& [content, id] : whole["model"]["vocab"].items()) {
    lists.tokens[id.get<std::size_t>()] = content;
  }
  lists.types.assign(lists.tokens.size(), 1);
  for (const json& added : whole["added_tokens"]) {
    lists.types[added["id"].get<std::size_t>()] = 3;
  }
  return lists;
}

GgufBuilder Of(const Lists& lists) {
  GgufBuilder gguf;
  gguf.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "deepseek-v3");
  gguf.Strings("tokenizer.ggml.tokens", lists.tokens);
  gguf.I32s("tokenizer.ggml.token_type", lists.types);
  return gguf.Strings("tokenizer.ggml.merges", lists.merges);
}

TEST_F(GgufTokenizer, UnusedIdsHaveNoToken) {
  Lists lists = DemoLists();
  lists.tokens.push_back("[PAD2048]");
  lists.types.push_back(5);
  const Tokenizer tokenizer = Open(Of(lists));
  EXPECT_EQ(tokenizer.Find("[PAD2048]"), std::nullopt);
  EXPECT_EQ(tokenizer.vocab_size(), 2048);
}

TEST_F(GgufTokenizer, F34IdsBeyondTheEmbedding) {
  ExpectRefused({"up to 2047", "2047"}, Builder(kDemo, "deepseek-v3"), 2047);
  Lists lists = DemoLists();
  lists.types.pop_back();
  ExpectRefused({"token_type", "expected 2048", "found 2047"}, Of(lists));
  lists = DemoLists();
  lists.merges = {"a nosuchtoken"};
  ExpectRefused({"merges", "'nosuchtoken'"}, Of(lists));
}

TEST_F(GgufTokenizer, F35BadTokensAndMerges) {
  Lists lists = DemoLists();
  lists.tokens[1000] = lists.tokens[1001];
  ExpectRefused({"tokenizer.ggml.tokens", "twice"}, Of(lists));
  for (const char* merge : {"a", "a b c", ""}) {
    lists = DemoLists();
    lists.merges = {merge};
    ExpectRefused({"tokenizer.ggml.merges", "two tokens"}, Of(lists));
  }
  lists = DemoLists();
  lists.types[1000] = 6;
  ExpectRefused({"tokenizer.ggml.tokens", "type 6"}, Of(lists));
  lists = DemoLists();
  lists.tokens[1000] = "";
  lists.types[1000] = 3;
  ExpectRefused({"added token of 0 bytes"}, Of(lists));
  lists = DemoLists();
  *std::find(lists.tokens.begin(), lists.tokens.end(), "a") = "another";
  ExpectRefused({"no token 'a'", "byte-level"}, Of(lists));
}

TEST_F(GgufTokenizer, KindsThatAreNotKnown) {
  const auto with = [](const char* key, const char* value) {
    return Builder(kDemo, "deepseek-v3").Without(key).String(key, value);
  };
  const GgufBuilder kimi = with("tokenizer.ggml.pre", "kimi-k2");
  ExpectRefused({"tokenizer.ggml.pre", "'kimi-k2'", "deepseek-llm, deepseek-coder, deepseek-v3"},
                kimi);
  EXPECT_FALSE(HasTokenizer(Write(kimi)));
  const GgufBuilder unigram = with("tokenizer.ggml.model", "llama");
  ExpectRefused({"tokenizer.ggml.model", "'llama'", "gpt2"}, unigram);
  EXPECT_FALSE(HasTokenizer(Write(unigram)));
  ExpectRefused({"tokenizer.ggml.model", "missing"}, GgufBuilder());
  EXPECT_FALSE(HasTokenizer(Write(GgufBuilder())));
  EXPECT_TRUE(HasTokenizer(Write(Builder(kDemo, "deepseek-v3"))));
  EXPECT_TRUE(HasTokenizer(TANDEM_SOURCE_DIR "/model/demo"));
  EXPECT_FALSE(HasTokenizer(folder_.path().string()));
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.pre"}) {
    ExpectRefused({key, "missing"}, Builder(kDemo, "deepseek-v3").Without(key));
  }
}

TEST_F(GgufTokenizer, ChatFormatIsTheTemplatesOrTheArchitectures) {
  const Config v3;
  Config v2;
  v2.family = Family::kDeepSeekV2;
  const auto format = [&](GgufBuilder gguf, const Config& config, const char* chat_template) {
    if (chat_template != nullptr) gguf.String("tokenizer.chat_template", chat_template);
    const std::string file = Write(gguf);
    return ReadChatFormat(file, config, ReadTokenizer(file, kAnyVocab));
  };
  const GgufBuilder demo = Builder(kDemo, "deepseek-v3");
  EXPECT_EQ(format(demo, v3, nullptr), ChatFormat::kV3);
  const GgufBuilder older = Builder(kGolden + "tokenizer_v2.json", "deepseek-llm");
  const char* asks = "{{ 'User: ' + message['content'] + '\\n\\n' }}{{ 'Assistant:' }}";
  EXPECT_EQ(format(older, v2, asks), ChatFormat::kV2);
  EXPECT_EQ(format(older, v2, nullptr), ChatFormat::kV2);
  EXPECT_EQ(format(older, v2, "{{ 'something else' }}"), ChatFormat::kNone);
  EXPECT_EQ(format(older, v3, nullptr), ChatFormat::kNone);
}

}  // namespace
}  // namespace tandem::test
