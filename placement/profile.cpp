#include "placement/profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>
#include <string_view>

#include "memory/error.h"
#include "placement/byte_size.h"
#include "placement/nearest.h"
#include "placement/profile_check.h"
#include "placement/yaml_tree.h"

namespace tandem {
namespace {

using Kind = YamlValue::Kind;

// A value with the path of its key ("memory.device"), for messages.
struct Field {
  const YamlValue& value;
  std::string path;
  const std::string& file;
};

[[noreturn]] void Fail(const Field& field, const std::string& what) {
  Throw<ConfigError>("{}:{}:{}: '{}': {}", field.file, field.value.line, field.value.column,
                     field.path, what);
}

std::string Describe(const YamlValue& value) {
  switch (value.kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kScalar:
      return Quoted(value.scalar);
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
  }
  return "";
}

[[noreturn]] void Expected(const Field& field, const std::string& what) {
  Fail(field, fmt::format("expected {}, found {}", what, Describe(field.value)));
}

template <class T>
std::optional<T> ParseNumber(const YamlValue& value) {
  if (value.kind != Kind::kScalar || value.quoted) return std::nullopt;
  const std::string& text = value.scalar;
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole ? std::optional(number) : std::nullopt;
}

std::int64_t Integer(const Field& field, std::int64_t least, std::int64_t most) {
  const std::optional<std::int64_t> number = ParseNumber<std::int64_t>(field.value);
  if (number && *number >= least && *number <= most) return *number;
  Expected(field, fmt::format("a whole number from {} to {}", least, most));
}

double Share(const Field& field) {
  const std::optional<double> number = ParseNumber<double>(field.value);
  if (number && *number >= 0 && *number <= 1) return *number;
  Expected(field, "a number from 0 to 1");
}

std::uint64_t Bytes(const Field& field, std::uint64_t least) {
  constexpr std::uint64_t kMost = std::uint64_t{64} << 40;
  const std::optional<std::uint64_t> bytes =
      field.value.kind == Kind::kScalar ? ParseBytes(field.value.scalar) : std::nullopt;
  if (!bytes) Expected(field, "a size such as 6 GiB, 512 MiB or a number of bytes");
  if (*bytes >= least && *bytes <= kMost) return *bytes;
  Expected(field, fmt::format("{} to {}", FormatBytes(least), FormatBytes(kMost)));
}

const std::string& Word(const Field& field, std::span<const std::string_view> words) {
  const std::string& word = field.value.scalar;
  std::string list;
  for (std::string_view known : words) {
    if (field.value.kind == Kind::kScalar && word == known) return word;
    list += fmt::format("{}{}", list.empty() ? "" : ", ", known);
  }
  const std::string nearest = NearestKey(word, words);
  Expected(field, list + (nearest.empty() ? "" : fmt::format(" (perhaps '{}')", nearest)));
}

constexpr std::array<std::string_view, 3> kSides{"auto", "host", "device"};

Side ParseSide(const Field& field) {
  const std::string& word = Word(field, kSides);
  return word == "device" ? Side::kDevice : word == "host" ? Side::kHost : Side::kAuto;
}

// A key that a map may have, and what to do with its value.
struct Key {
  std::string_view name;
  void (*read)(const Field& field, Profile& profile);
};

void ReadMap(const Field& field, std::span<const Key> keys, Profile& profile) {
  if (field.value.kind == Kind::kNull) return;  // "memory:" with all its lines commented out
  if (field.value.kind != Kind::kMap) Expected(field, "a map");
  std::vector<std::string_view> names;
  for (const Key& key : keys) names.push_back(key.name);
  for (const YamlValue::Entry& entry : field.value.map) {
    const auto known = std::find(names.begin(), names.end(), entry.key);
    if (known == names.end()) {
      const std::string nearest = NearestKey(entry.key, names);
      const std::string hint = nearest.empty() ? fmt::format("known: {}", fmt::join(names, ", "))
                                               : fmt::format("did you mean '{}'?", nearest);
      Throw<ConfigError>("{}:{}:{}: {}: unknown key ({})", field.file, entry.line, entry.column,
                         Quoted(entry.key), hint);
    }
    const std::string path =
        field.path.empty() ? entry.key : fmt::format("{}.{}", field.path, entry.key);
    keys[static_cast<std::size_t>(known - names.begin())].read({entry.value, path, field.file},
                                                               profile);
  }
}

void ReadDevice(const Field& field, Profile& profile) {
  if (field.value.kind != Kind::kScalar || field.value.scalar.empty()) {
    Expected(field, "auto, none, an index or a part of a device's name");
  }
  profile.device = field.value.scalar;
}

void ReadKvType(const Field& field, Profile& profile) {
  static constexpr std::array<std::string_view, 3> kTypes{"f32", "bf16", "f16"};
  const std::string_view word = Word(field, kTypes);
  profile.kv_type = word == "f32" ? DType::kF32 : word == "bf16" ? DType::kBF16 : DType::kF16;
}

void ReadActivationType(const Field& field, Profile& profile) {
  static constexpr std::array<std::string_view, 2> kTypes{"f32", "bf16"};
  profile.activation_type = Word(field, kTypes) == "f32" ? DType::kF32 : DType::kBF16;
}

constexpr std::array kExpertKeys{
    Key{"share",
        [](const Field& f, Profile& p) {
          p.experts = Profile::Experts::kShare;
          p.experts_share = Share(f);
        }},
    Key{"bytes",
        [](const Field& f, Profile& p) {
          p.experts = Profile::Experts::kBytes;
          p.experts_bytes = Bytes(f, 0);
        }},
};

void ReadExperts(const Field& field, Profile& profile) {
  if (field.value.kind == Kind::kMap) {
    if (field.value.map.size() != 1) Fail(field, "expected one of 'share' and 'bytes'");
    return ReadMap(field, kExpertKeys, profile);
  }
  const Side side = ParseSide(field);
  profile.experts = side == Side::kAuto ? Profile::Experts::kAuto : Profile::Experts::kShare;
  profile.experts_share = side == Side::kDevice ? 1 : 0;
}

void ReadOrder(const Field& field, Profile& profile) {
  if (field.value.kind != Kind::kList) Expected(field, "a list of expert ids");
  std::set<int> seen;
  for (const YamlValue& item : field.value.list) {
    const Field id_field{item, field.path, field.file};
    const auto id = static_cast<int>(Integer(id_field, 0, ProfileLimits::kExperts - 1));
    if (!seen.insert(id).second) Fail(id_field, fmt::format("expert {} is named twice", id));
    profile.experts_order.push_back(id);
  }
}

void ReadLayers(const Field& field, Profile& profile) {
  if (field.value.kind != Kind::kList || field.value.list.size() != 2) {
    Expected(field, "[first, last]");
  }
  const auto layer = [&](std::size_t i) {
    return Integer({field.value.list[i], field.path, field.file}, 0, ProfileLimits::kLayers - 1);
  };
  profile.device_layers = {layer(0), layer(1)};
  if (layer(0) > layer(1)) {
    Fail(field, fmt::format("the first layer, {}, comes after the last, {}", layer(0), layer(1)));
  }
}

constexpr std::uint64_t kLeastBudget = std::uint64_t{1} << 20;

constexpr std::array kMemoryKeys{
    Key{"device",
        [](const Field& f, Profile& p) { p.device_memory_bytes = Bytes(f, kLeastBudget); }},
    Key{"host", [](const Field& f, Profile& p) { p.host_memory_bytes = Bytes(f, kLeastBudget); }},
};

constexpr std::array kWorkloadKeys{
    Key{"context",
        [](const Field& f, Profile& p) { p.context = Integer(f, 1, ProfileLimits::kContext); }},
    Key{"sequences",
        [](const Field& f, Profile& p) {
          p.max_sequences = Integer(f, 1, ProfileLimits::kSequences);
        }},
    Key{"chunk",
        [](const Field& f, Profile& p) { p.chunk = Integer(f, 1, ProfileLimits::kChunk); }},
};

constexpr std::array kKvKeys{Key{"type", ReadKvType}};

constexpr std::array kActivationKeys{Key{"type", ReadActivationType}};

constexpr std::array kPlacementKeys{
    Key{"attention", [](const Field& f, Profile& p) { p.attention = ParseSide(f); }},
    Key{"dense", [](const Field& f, Profile& p) { p.dense = ParseSide(f); }},
    Key{"shared_experts", [](const Field& f, Profile& p) { p.shared_experts = ParseSide(f); }},
    Key{"router", [](const Field& f, Profile& p) { p.router = ParseSide(f); }},
    Key{"head", [](const Field& f, Profile& p) { p.head = ParseSide(f); }},
    Key{"routed_experts", ReadExperts},
    Key{"experts_order", ReadOrder},
    Key{"layers", ReadLayers},
};

int ThreadCount(const Field& field) {
  return static_cast<int>(Integer(field, 1, ProfileLimits::kThreads));
}

constexpr std::array kKeys{
    Key{"device", ReadDevice},
    Key{"memory", [](const Field& f, Profile& p) { ReadMap(f, kMemoryKeys, p); }},
    Key{"threads", [](const Field& f, Profile& p) { p.threads = ThreadCount(f); }},
    Key{"device_threads", [](const Field& f, Profile& p) { p.device_threads = ThreadCount(f); }},
    Key{"workload", [](const Field& f, Profile& p) { ReadMap(f, kWorkloadKeys, p); }},
    Key{"kv", [](const Field& f, Profile& p) { ReadMap(f, kKvKeys, p); }},
    Key{"activations", [](const Field& f, Profile& p) { ReadMap(f, kActivationKeys, p); }},
    Key{"placement", [](const Field& f, Profile& p) { ReadMap(f, kPlacementKeys, p); }},
};

}  // namespace

Profile ParseProfile(const std::string& yaml, const std::string& file) {
  const YamlValue root = ParseYaml(yaml, file);
  Profile profile;
  profile.file = file;
  if (root.kind != Kind::kNull && root.kind != Kind::kMap) {
    Throw<ConfigError>("{}:{}:{}: expected a map of settings, found {}", file, root.line,
                       root.column, Describe(root));
  }
  ReadMap({root, "", file}, kKeys, profile);
  return profile;
}

Profile ReadProfile(const std::string& file) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (!fs::exists(status)) {
    throw SystemError(fmt::format("{}: there is no such profile", file), ExitCode::kMissingFile);
  }
  if (!fs::is_regular_file(status)) {
    throw SystemError(fmt::format("{}: expected a profile, found no regular file", file),
                      ExitCode::kIo);
  }
  std::ifstream stream(file, std::ios::binary);
  // One byte more than allowed tells that it is too large, without reading all of it.
  std::string text(kMaxYamlBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!stream.is_open() || stream.bad()) {
    throw SystemError(fmt::format("{}: the profile cannot be read", file), ExitCode::kIo);
  }
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return ParseProfile(text, file);
}

}  // namespace tandem
