#include "placement/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <sstream>
#include <string_view>

#include "memory/error.h"

namespace tandem {
namespace {

// A control character could end a message early or steer the terminal.
std::string Printable(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) c = '?';
  }
  return text;
}

// Builds the tree from yaml-cpp's events, and refuses what is not wanted as soon as it comes, so
// that nothing is built of it.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& file)
      : file_(file), source_(std::make_shared<const std::string>(file)) {}
  YamlValue Take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& /*mark*/) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Put(Make(YamlValue::Kind::kNull, mark, "", anchor));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    Fail(mark, "aliases (*name) are not allowed: write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    YamlValue value = Make(YamlValue::Kind::kScalar, mark, tag, anchor);
    value.quoted = tag == "!";
    value.scalar = text;
    Put(std::move(value));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    Open(Make(YamlValue::Kind::kList, mark, tag, anchor), mark);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    Open(Make(YamlValue::Kind::kMap, mark, tag, anchor), mark);
  }
  void OnMapEnd() override { Close(); }

 private:
  // A collection whose end has not come yet, and the key that waits for its value.
  struct Level {
    YamlValue value;
    bool has_key = false;
    YamlValue::Entry key;
  };

  [[noreturn]] void Fail(const YAML::Mark& mark, const std::string& what) const {
    Throw<ConfigError>("{}:{}:{}: {}", file_, mark.line + 1, mark.column + 1, what);
  }

  YamlValue Make(YamlValue::Kind kind, const YAML::Mark& mark, const std::string& tag,
                 YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) {
      Fail(mark, "anchors (&name) are not allowed: write the value out");
    }
    // "?" is a plain value, "!" a quoted one.
    if (!tag.empty() && tag != "?" && tag != "!") {
      Fail(mark, fmt::format("tag {} is not allowed", Quoted(tag)));
    }
    YamlValue value;
    value.kind = kind;
    value.line = mark.line + 1;
    value.column = mark.column + 1;
    value.source = source_;
    return value;
  }

  void Open(YamlValue value, const YAML::Mark& mark) {
    if (levels_.size() >= kMaxYamlDepth) {
      Fail(mark, fmt::format("nested deeper than {} levels", kMaxYamlDepth));
    }
    levels_.push_back({std::move(value), false, {}});
  }

  void Close() {
    YamlValue value = std::move(levels_.back().value);
    levels_.pop_back();
    Put(std::move(value));
  }

  void Put(YamlValue value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return;
    }
    Level& level = levels_.back();
    if (level.value.kind == YamlValue::Kind::kList) {
      level.value.list.push_back(std::move(value));
    } else if (!level.has_key) {
      PutKey(level, value);
    } else {
      // "key:" with nothing after it: the mark of the nothing is wherever the next thing starts.
      if (value.kind == YamlValue::Kind::kNull) {
        value.line = level.key.line;
        value.column = level.key.column;
      }
      level.key.value = std::move(value);
      level.value.map.push_back(std::move(level.key));
      level.has_key = false;
    }
  }

  void PutKey(Level& level, const YamlValue& key) const {
    if (key.kind != YamlValue::Kind::kScalar) {
      Throw<ConfigError>("{}:{}:{}: expected a word as key", file_, key.line, key.column);
    }
    // No map of a valid profile has more keys than this, and the search below is linear.
    constexpr std::size_t kMaxKeys = 256;
    if (level.value.map.size() >= kMaxKeys) {
      Throw<ConfigError>("{}:{}:{}: more than {} keys", file_, key.line, key.column, kMaxKeys);
    }
    for (const YamlValue::Entry& entry : level.value.map) {
      if (entry.key != key.scalar) continue;
      Throw<ConfigError>("{}:{}:{}: {}: this key is already on line {}", file_, key.line,
                         key.column, Quoted(key.scalar), entry.line);
    }
    level.key = {key.scalar, key.line, key.column, {}};
    level.has_key = true;
  }

  const std::string& file_;
  std::shared_ptr<const std::string> source_;
  YamlValue root_;
  std::vector<Level> levels_;
};

// Whether a plain scalar of these characters is read back as the same text, and not as a null, a
// comment or a collection.
bool IsPlain(const std::string& text) {
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  const auto inner = [&](char c) {
    return word(c) || std::string_view("._/+* -").find(c) != std::string_view::npos;
  };
  if (text.empty() ||
      !(word(text.front()) ||
        std::string_view("./-").find(text.front()) != std::string_view::npos) ||
      !(word(text.back()) || text.back() == '*' || text.back() == '/' || text.back() == '.')) {
    return false;
  }
  return text != "null" && text != "Null" && text != "NULL" && !text.starts_with("---") &&
         !text.starts_with("- ") && !text.starts_with("...") && std::ranges::all_of(text, inner);
}

// A double-quoted scalar.
std::string Escaped(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

YamlValue ParseYaml(const std::string& text, const std::string& file) {
  if (text.size() > kMaxYamlBytes) {
    Throw<ConfigError>("{}: {} bytes, expected at most {}", file, text.size(), kMaxYamlBytes);
  }
  std::istringstream stream(text);
  TreeBuilder builder(file);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return {};
    YamlValue root = builder.Take();
    if (parser.HandleNextDocument(builder)) {
      const YamlValue second = builder.Take();
      Throw<ConfigError>("{}:{}:{}: a second document, expected one", file, second.line,
                         second.column);
    }
    return root;
  } catch (const YAML::Exception& error) {
    Throw<ConfigError>("{}:{}:{}: YAML syntax: {}", file, error.mark.line + 1,
                       error.mark.column + 1, Printable(error.msg));
  }
}

std::string Where(const YamlValue& value) {
  const std::string source = value.source ? *value.source : "";
  return value.line == 0 ? source : fmt::format("{}:{}:{}", source, value.line, value.column);
}

std::string Describe(const YamlValue& value) {
  switch (value.kind) {
    case YamlValue::Kind::kNull:
      return "nothing";
    case YamlValue::Kind::kScalar:
      return Quoted(value.scalar);
    case YamlValue::Kind::kList:
      return "a list";
    case YamlValue::Kind::kMap:
      return "a map";
  }
  return "";
}

YamlValue YamlScalar(std::string text) {
  YamlValue value;
  value.kind = YamlValue::Kind::kScalar;
  value.line = 0;
  value.quoted = !IsPlain(text);
  value.scalar = std::move(text);
  return value;
}

YamlValue YamlList(std::vector<YamlValue> items) {
  YamlValue value;
  value.kind = YamlValue::Kind::kList;
  value.line = 0;
  value.list = std::move(items);
  return value;
}

YamlValue YamlMap(std::vector<std::pair<std::string, YamlValue>> entries) {
  YamlValue value;
  value.kind = YamlValue::Kind::kMap;
  value.line = 0;
  for (auto& [key, entry] : entries) {
    value.map.push_back({std::move(key), 0, 0, std::move(entry)});
  }
  return value;
}

std::string FlowText(const YamlValue& value) {
  std::string inner;
  switch (value.kind) {
    case YamlValue::Kind::kNull:
      return "null";
    case YamlValue::Kind::kScalar:
      return value.quoted || !IsPlain(value.scalar) ? Escaped(value.scalar) : value.scalar;
    case YamlValue::Kind::kList:
      for (const YamlValue& item : value.list) {
        inner += (inner.empty() ? "" : ", ") + FlowText(item);
      }
      return "[" + inner + "]";
    case YamlValue::Kind::kMap:
      for (const YamlValue::Entry& entry : value.map) {
        const std::string key = IsPlain(entry.key) ? entry.key : Escaped(entry.key);
        inner += fmt::format("{}{}: {}", inner.empty() ? "" : ", ", key, FlowText(entry.value));
      }
      return "{" + inner + "}";
  }
  return "";
}

std::string Quoted(const std::string& text) {
  constexpr std::size_t kLongest = 60;
  const bool cut = text.size() > kLongest;
  return fmt::format("'{}{}'", Printable(text.substr(0, kLongest)), cut ? "..." : "");
}

}  // namespace tandem
