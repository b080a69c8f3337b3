#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "placement/profile.h"
#include "placement/setting_value.h"

// The forms that a setting's value can have: each reads it into the profile, prints it and gives
// its schema.
namespace tandem::setting {

template <class T>
struct MemberType;
template <class T>
struct MemberType<T Profile::*> {
  using Type = T;
};
template <auto kMember>
using TypeOf = typename MemberType<decltype(kMember)>::Type;

inline constexpr std::string_view kAutoWord = "auto";
inline constexpr std::string_view kOffWord = "off";
inline constexpr std::uint64_t kLeastBudget = std::uint64_t{1} << 20;

template <auto kMember, std::int64_t kLeast, std::int64_t kMost>
struct Whole {
  static void Read(const Field& field, Profile& profile) {
    profile.*kMember = static_cast<TypeOf<kMember>>(Integer(field, kLeast, kMost));
  }
  static YamlValue Print(const Profile& profile) { return PrintNumber(profile.*kMember); }
  static std::string Schema() { return IntegerSchema(kLeast, kMost); }
};

// An optional number; absent is "auto".
template <auto kMember, std::int64_t kLeast, std::int64_t kMost>
struct WholeOrAuto {
  static void Read(const Field& field, Profile& profile) {
    using Number = typename TypeOf<kMember>::value_type;
    (profile.*kMember).reset();
    if (IsWord(field.value, kAutoWord)) return;
    profile.*kMember = static_cast<Number>(Integer(field, kLeast, kMost, " or auto"));
  }
  static YamlValue Print(const Profile& profile) {
    const auto& number = profile.*kMember;
    return number ? PrintNumber(*number) : YamlScalar("auto");
  }
  static std::string Schema() { return OrWord(IntegerSchema(kLeast, kMost), kAutoWord); }
};

template <auto kMember>
struct SizeOrAuto {
  static void Read(const Field& field, Profile& profile) {
    (profile.*kMember).reset();
    if (!IsWord(field.value, kAutoWord)) {
      profile.*kMember = Bytes(field, kLeastBudget, " or auto");
    }
  }
  static YamlValue Print(const Profile& profile) {
    const auto& bytes = profile.*kMember;
    return bytes ? PrintBytes(*bytes) : YamlScalar("auto");
  }
  static std::string Schema() { return OrWord(BytesSchema(kLeastBudget), kAutoWord); }
};

// The same, absent as "off".
template <auto kMember>
struct SizeOrOff {
  static void Read(const Field& field, Profile& profile) {
    (profile.*kMember).reset();
    if (!IsWord(field.value, kOffWord)) profile.*kMember = Bytes(field, kLeastBudget, " or off");
  }
  static YamlValue Print(const Profile& profile) {
    const auto& bytes = profile.*kMember;
    return bytes ? PrintBytes(*bytes) : YamlScalar(std::string(kOffWord));
  }
  static std::string Schema() { return OrWord(BytesSchema(kLeastBudget), kOffWord); }
};

// An enumeration whose values have these words, in their order.
template <auto kMember, const auto& kWords>
struct OneOf {
  static void Read(const Field& field, Profile& profile) {
    profile.*kMember = static_cast<TypeOf<kMember>>(WordIndex(field, kWords));
  }
  static YamlValue Print(const Profile& profile) {
    return YamlScalar(std::string(kWords[static_cast<std::size_t>(profile.*kMember)]));
  }
  static std::string Schema() { return WordsSchema(kWords); }
};

// Text that is absent as one word ("none").
template <auto kMember, const std::string_view& kAbsent>
struct TextOr {
  static void Read(const Field& field, Profile& profile) {
    const std::string& text = Text(field, "text");
    profile.*kMember = text == kAbsent ? "" : text;
  }
  static YamlValue Print(const Profile& profile) {
    const std::string& text = profile.*kMember;
    return YamlScalar(text.empty() ? std::string(kAbsent) : text);
  }
  static std::string Schema() { return R"({"type":"string","minLength":1})"; }
};

// Forms of single settings, in setting_forms.cpp.
#define TANDEM_SETTING_FORM(Name)                           \
  struct Name {                                             \
    static void Read(const Field& field, Profile& profile); \
    static YamlValue Print(const Profile& profile);         \
    static std::string Schema();                            \
  }
TANDEM_SETTING_FORM(DeviceForm);
TANDEM_SETTING_FORM(DeviceBudgetsForm);
TANDEM_SETTING_FORM(NodeBudgetsForm);
TANDEM_SETTING_FORM(ThreadsForm);
TANDEM_SETTING_FORM(UseForm);
TANDEM_SETTING_FORM(KvTypeForm);
TANDEM_SETTING_FORM(ActivationsForm);
TANDEM_SETTING_FORM(RoutedExpertsForm);
TANDEM_SETTING_FORM(ExpertsOrderForm);
TANDEM_SETTING_FORM(LayersForm);
TANDEM_SETTING_FORM(StatisticsForm);
TANDEM_SETTING_FORM(RulesForm);
#undef TANDEM_SETTING_FORM

}  // namespace tandem::setting
