#include "placement/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <memory>
#include <sstream>

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
  explicit TreeBuilder(const std::string& file) : file_(file) {}
  YamlValue Take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& /*mark*/) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Put(Make(YamlValue::Kind::kNull, mark, "", anchor));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    Fail(mark, "aliases (*name) are not allowed in a profile: write the value out");
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
      Fail(mark, "anchors (&name) are not allowed in a profile: write the value out");
    }
    // "?" is a plain value, "!" a quoted one.
    if (!tag.empty() && tag != "?" && tag != "!") {
      Fail(mark, fmt::format("tag {} is not allowed in a profile", Quoted(tag)));
    }
    YamlValue value;
    value.kind = kind;
    value.line = mark.line + 1;
    value.column = mark.column + 1;
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
  YamlValue root_;
  std::vector<Level> levels_;
};

}  // namespace

YamlValue ParseYaml(const std::string& text, const std::string& file) {
  if (text.size() > kMaxYamlBytes) {
    Throw<ConfigError>("{}: {} bytes, a profile has at most {}", file, text.size(), kMaxYamlBytes);
  }
  std::istringstream stream(text);
  TreeBuilder builder(file);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return {};
    YamlValue root = builder.Take();
    if (parser.HandleNextDocument(builder)) {
      const YamlValue second = builder.Take();
      Throw<ConfigError>("{}:{}:{}: a second document; a profile is one", file, second.line,
                         second.column);
    }
    return root;
  } catch (const YAML::Exception& error) {
    Throw<ConfigError>("{}:{}:{}: YAML syntax: {}", file, error.mark.line + 1,
                       error.mark.column + 1, Printable(error.msg));
  }
}

std::string Quoted(const std::string& text) {
  constexpr std::size_t kLongest = 60;
  const bool cut = text.size() > kLongest;
  return fmt::format("'{}{}'", Printable(text.substr(0, kLongest)), cut ? "..." : "");
}

}  // namespace tandem
