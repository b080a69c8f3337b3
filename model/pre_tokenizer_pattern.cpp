#include "model/pre_tokenizer_pattern.h"

#include <charconv>

#include "memory/error.h"
#include "model/pre_tokenizer_unicode.h"
#include "model/utf8.h"

namespace tandem {
namespace {

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string Run() {
    while (at_ < pattern_.size()) Item();
    return std::move(out_);
  }

 private:
  [[noreturn]] void RefuseAt(std::size_t at, std::string_view what) const {
    Throw<CheckpointError>("{}: regular expression '{}': {} at byte {} is not supported", where_,
                           pattern_.substr(0, 300), what, at);
  }
  [[noreturn]] void Refuse(std::string_view what) const { RefuseAt(at_, what); }

  bool Next(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  char Take() {
    if (at_ == pattern_.size()) Refuse("an end within an escape or class");
    return pattern_[at_++];
  }

  void Item() {
    if (Next("\\")) return Escape();
    if (Next("[")) return Class();
    if (Next("(?") || Next("(*")) return Group();
    if (Next("{")) return Interval();
    out_ += Take();
  }

  // Groups that both engines read alike. Flags differ: (?m) is PCRE2's (?s), and (?i)
  // without a colon has another reach.
  void Group() {
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (!Next(known)) continue;
      at_ += known.size();
      out_ += known;
      return;
    }
    Refuse("a group of this kind");
  }

  // {n}, {n,}, {n,m}, {,m}. To Oniguruma {n}? and {n}+ are not lazy and possessive forms.
  void Interval() {
    const std::size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) Refuse("a '{' without '}'");
    const std::string_view body = pattern_.substr(at_ + 1, end - at_ - 1);
    const std::size_t comma = body.find(',');
    const bool digits = body.find_first_not_of("0123456789,") == std::string_view::npos;
    if (!digits || body.empty() || body == "," || body.rfind(',') != comma) Refuse("this '{'");
    const char after = end + 1 < pattern_.size() ? pattern_[end + 1] : '\0';
    const bool stacked = after == '+' || after == '*' || after == '{';
    if (stacked || (after == '?' && comma == std::string_view::npos)) {
      Refuse("a quantifier after '}'");
    }
    out_ += body.front() == ',' ? fmt::format("{{0{}}}", body) : fmt::format("{{{}}}", body);
    at_ = end + 1;
  }

  void Escape() {
    const std::size_t start = at_++;
    const char c = Take();
    if (c == 's') return Outside("", WhiteSpaceClass());
    if (c == 'S') return Outside("^", WhiteSpaceClass());
    if (c == 'd') return Outside("", UnicodeClass("Nd"));
    if (c == 'D') return Outside("^", UnicodeClass("Nd"));
    if (c == 'p') return Outside("", Property(start));
    if (c == 'P') return Outside("^", Property(start));
    if (c == 'A' || c == 'z' || c == 'Z') {
      out_ += {'\\', c};
      return;
    }
    Character(c, start);
  }

  void Outside(std::string_view negation, std::string_view items) {
    out_ += fmt::format("[{}{}]", negation, items);
  }

  // The part in braces of \p{..}, as the inside of a class.
  std::string Property(std::size_t start) {
    const std::size_t end = pattern_.find('}', at_);
    if (!Next("{") || end == std::string_view::npos) RefuseAt(start, "this escape");
    std::string items = UnicodeClass(pattern_.substr(at_ + 1, end - at_ - 1));
    if (items.empty()) RefuseAt(start, "this property (only L, M, N, P, S, Z and their parts)");
    at_ = end + 1;
    return items;
  }

  // An escape that stands for one character, in a class or outside.
  void Character(char c, std::size_t start) {
    switch (c) {
      case 'n':
        return Emit(0x0A);
      case 'r':
        return Emit(0x0D);
      case 't':
        return Emit(0x09);
      case 'f':
        return Emit(0x0C);
      case 'v':
        return Emit(0x0B);  // to PCRE2 \v is a class
      case 'a':
        return Emit(0x07);
      case 'e':
        return Emit(0x1B);
      case 'x':
        return Hexadecimal(start, Next("{"));
      case 'u':
        return Hexadecimal(start, false, 4);
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) RefuseAt(start, "this escape");
    out_ += '\\';
    out_ += c;
  }

  void Emit(unsigned value) { out_ += fmt::format("\\x{{{:x}}}", value); }

  // \xHH below 0x80 (above, it is a raw byte to Oniguruma), \x{H...} and \uHHHH.
  void Hexadecimal(std::size_t start, bool braces, std::size_t digits = 2) {
    if (braces) ++at_;
    if (braces) digits = pattern_.find('}', at_) - at_;
    const std::string_view text = pattern_.substr(at_, digits);
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    const bool whole = error == std::errc() && end == text.data() + text.size() && !text.empty();
    const bool raw_byte = digits == 2 && !braces && value > 0x7F;
    if (!whole || text.size() != digits || value > 0x10FFFF || raw_byte) {
      RefuseAt(start, "this escape");
    }
    at_ += digits + (braces ? 1 : 0);
    Emit(value);
  }

  void Class() {
    out_ += Take();
    if (Next("^")) out_ += Take();
    if (Next("]")) Refuse("an empty class");
    while (!Next("]")) ClassItem();
    out_ += Take();
  }

  void ClassItem() {
    if (Next("[")) Refuse("a class within a class");
    if (Next("&&")) Refuse("an intersection of classes");
    if (!Next("\\")) {
      if (Next(".") || Next(":") || Next("=")) out_ += '\\';  // to PCRE2 [:x:] is a POSIX class
      out_ += Take();
      return;
    }
    const std::size_t start = at_++;
    const char c = Take();
    if (c == 's')
      out_ += WhiteSpaceClass();
    else if (c == 'S')
      out_ += NoWhiteSpaceClass();
    else if (c == 'd')
      out_ += UnicodeClass("Nd");
    else if (c == 'p')
      out_ += Property(start);
    else
      Character(c, start);
  }

  std::string_view pattern_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string PatternForPcre(std::string_view pattern, const std::string& where) {
  // From each blank of a long run that has no end of line behind it, \s+$ would walk the rest of
  // the run: quadratic. Only the first blank of a run can begin a match, for the match goes up to
  // the last end of line of the run.
  if (pattern == "\\s+$") {
    return fmt::format("(?<![{0}])[{0}]+$", WhiteSpaceClass());
  }
  return Translator(pattern, where).Run();
}

std::string LiteralPattern(std::string_view text) {
  std::string pattern;
  while (!text.empty()) {
    pattern += fmt::format("\\x{{{:x}}}", static_cast<unsigned>(CodePoint(text)));
    text.remove_prefix(StepUtf8(text).length);
  }
  return pattern;
}

}  // namespace tandem
