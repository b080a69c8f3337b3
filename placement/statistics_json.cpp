// Routing statistics as JSON. A file may come from anybody: every size is bounded before it is
// used, and the numbers must agree with each other.
#include "placement/statistics_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "memory/error.h"
#include "memory/file.h"
#include "placement/statistics.h"

namespace tandem {
namespace {

using Json = nlohmann::json;
using Lists = std::vector<std::vector<std::uint64_t>>;

constexpr std::string_view kFormat = "tandem routing statistics";
constexpr std::uint64_t kVersion = 1;
constexpr std::uint64_t kMaxBytes = std::uint64_t{64} << 20;
constexpr int kMaxDepth = 8;
constexpr std::int64_t kMaxLayers = 1000;  // as of a config
constexpr std::int64_t kMaxExperts = 1024;
constexpr std::size_t kMaxDomains = 1000;
constexpr std::size_t kMaxName = 4096;
constexpr const char* kPhaseNames[kNumPhases] = {"prefill", "decode"};

// ---- writing

// One line per layer, so that files can be compared by eye.
std::string ListsText(const Lists& lists) {
  std::string text = "[";
  for (std::size_t l = 0; l < lists.size(); ++l) {
    text += fmt::format("{}\n{}", l == 0 ? "" : ",", Json(lists[l]).dump());
  }
  return text + "]";
}

std::string PhaseText(const RoutingCounts& c) {
  return fmt::format(
      "{{\"tokens\": {}, \"chunks\": {},\n\"counts\": {},\n\"distances\": {},\n\"ranks\": {},\n"
      "\"chunk_uses\": {}}}",
      c.tokens, c.chunks, ListsText(c.counts), ListsText(c.distances), ListsText(c.ranks),
      ListsText(c.chunk_uses));
}

std::string DomainText(const RoutingDomain& domain) {
  std::string text = fmt::format("{{\"name\": {}", QuotedName(domain.name));
  for (std::size_t p = 0; p < kNumPhases; ++p) {
    text += fmt::format(",\n\"{}\": {}", kPhaseNames[p], PhaseText(domain.phases[p]));
  }
  return text + "}";
}

// ---- reading

// Refuses what the parser itself would take: names given twice (it keeps the last one) and depth
// that no such file has.
class Guard {
 public:
  explicit Guard(const std::string& file) : file_(file) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    if (depth > kMaxDepth) {
      Throw<CheckpointError>(
          "{}: nested deeper than {} levels: damaged, or no file of "
          "`tandem calibrate`",
          file_, kMaxDepth);
    }
    if (event == Json::parse_event_t::object_start) names_.emplace_back();
    if (event == Json::parse_event_t::object_end) names_.pop_back();
    if (event == Json::parse_event_t::key) AddName(parsed.get_ref<const std::string&>());
    return true;
  }

 private:
  void AddName(const std::string& name) {
    if (!names_.back().insert(name).second) {
      Throw<CheckpointError>("{}: {}: given twice", file_, QuotedName(name.substr(0, 60)));
    }
  }
  const std::string& file_;
  std::vector<std::set<std::string>> names_;
};

std::string Shown(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

// One object of the file, with its place in it for messages.
class Fields {
 public:
  Fields(const Json& json, const std::string& file, std::string path,
         std::initializer_list<std::string_view> known)
      : json_(json), file_(file), path_(std::move(path)) {
    if (!json.is_object()) {
      Throw<CheckpointError>("{}: {}: expected an object, found {}", file_,
                             path_.empty() ? "the whole" : path_, Shown(json));
    }
    for (const auto& [name, value] : json.items()) {
      if (std::ranges::find(known, std::string_view(name)) == known.end()) {
        Throw<CheckpointError>("{}: unknown field", Where(QuotedName(name.substr(0, 60))));
      }
    }
  }

  const Json& Get(const char* name) const {
    const auto at = json_.find(name);
    if (at == json_.end()) {
      Throw<CheckpointError>("{}: missing; run `tandem calibrate` again", Where(name));
    }
    return *at;
  }

  std::int64_t Int(const char* name, std::int64_t low, std::int64_t high) const {
    const Json& value = Get(name);
    const bool fits = value.is_number_unsigned() &&
                      value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high);
    if (!fits || value.get<std::int64_t>() < low) {
      Throw<CheckpointError>("{}: expected a whole number from {} to {}, found {}", Where(name),
                             low, high, Shown(value));
    }
    return value.get<std::int64_t>();
  }

  std::string Text(const char* name) const {
    const Json& value = Get(name);
    if (!value.is_string() || value.get_ref<const std::string&>().size() > kMaxName) {
      Throw<CheckpointError>("{}: expected a text of at most {} bytes, found {}", Where(name),
                             kMaxName, Shown(value));
    }
    return value.get<std::string>();
  }

  std::string Where(std::string_view name) const {
    return fmt::format("{}: {}{}", file_, path_, name);
  }
  std::string Path(std::string_view name) const { return fmt::format("{}{}", path_, name); }
  const std::string& file() const { return file_; }

 private:
  const Json& json_;
  const std::string& file_;
  std::string path_;
};

std::vector<std::uint64_t> ReadList(const Json& json, std::size_t size, const std::string& where) {
  if (!json.is_array() || (!json.empty() && json.size() != size)) {
    Throw<CheckpointError>("{}: expected a list of {} numbers, or an empty one, found {}", where,
                           size, Shown(json));
  }
  std::vector<std::uint64_t> list;
  list.reserve(json.size());
  for (const Json& value : json) {
    if (!value.is_number_unsigned()) {
      Throw<CheckpointError>("{}[{}]: expected a whole number from 0 on, found {}", where,
                             list.size(), Shown(value));
    }
    list.push_back(value.get<std::uint64_t>());
  }
  return list;
}

// A list per layer, or none at all where it was not recorded.
Lists ReadLists(const Fields& fields, const char* name, std::size_t layers, std::size_t size) {
  const Json& json = fields.Get(name);
  if (!json.is_array() || (!json.empty() && json.size() != layers)) {
    Throw<CheckpointError>("{}: expected a list of {} layers, or an empty one, found {}",
                           fields.Where(name), layers, Shown(json));
  }
  Lists lists;
  lists.reserve(json.size());
  for (const Json& layer : json) {
    lists.push_back(ReadList(layer, size, fmt::format("{}[{}]", fields.Where(name), lists.size())));
  }
  return lists;
}

// Every number is at most `most`, so that the sum of a layer cannot overflow, and the sum is `sum`.
void CheckSum(const std::vector<std::uint64_t>& list, std::uint64_t sum, const std::string& where) {
  std::uint64_t left = sum;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] > left) {
      Throw<CheckpointError>(
          "{}[{}]: {} is more than the {} choices that are left of the layer's {}", where, i,
          list[i], left, sum);
    }
    left -= list[i];
  }
  if (left != 0) {
    Throw<CheckpointError>("{}: expected a sum of {} (tokens times experts per token), found {}",
                           where, sum, sum - left);
  }
}

// Each list that is there sums to the layer's choices; a list recorded for one counted layer is
// recorded for all.
void CheckLists(const Lists& lists, const Lists& counts, std::uint64_t choices,
                const Fields& fields, const char* name) {
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const std::string where = fmt::format("{}[{}]", fields.Where(name), l);
    const bool counted = l < counts.size() && !counts[l].empty();
    if (lists[l].empty() == counted) {
      Throw<CheckpointError>("{}: expected {}, as counts has it, found {} numbers", where,
                             counted ? "a list" : "an empty list", lists[l].size());
    }
    if (!lists[l].empty()) CheckSum(lists[l], choices, where);
  }
}

void CheckChunks(const RoutingCounts& c, const Fields& fields) {
  const auto chunks = static_cast<std::uint64_t>(c.chunks);
  for (std::size_t l = 0; l < c.chunk_uses.size(); ++l) {
    const std::size_t experts = l < c.counts.size() ? c.counts[l].size() : 0;
    const std::string where = fmt::format("{}[{}]", fields.Where("chunk_uses"), l);
    if (c.chunk_uses[l].size() != experts) {
      Throw<CheckpointError>("{}: expected {} numbers, as counts has them, found {}", where,
                             experts, c.chunk_uses[l].size());
    }
    for (std::size_t e = 0; e < experts; ++e) {
      const std::uint64_t most = std::min(chunks, c.counts[l][e]);
      if (c.chunk_uses[l][e] <= most) continue;
      Throw<CheckpointError>("{}[{}]: expected at most {} (chunks, and choices), found {}", where,
                             e, most, c.chunk_uses[l][e]);
    }
  }
}

RoutingCounts ReadPhase(const Fields& domain, const char* name, const RoutingStatistics& s) {
  const Fields f(domain.Get(name), domain.file(), domain.Path(name) + ".",
                 {"tokens", "chunks", "counts", "distances", "ranks", "chunk_uses"});
  const auto layers = static_cast<std::size_t>(s.layers);
  const auto experts = static_cast<std::size_t>(s.experts);
  RoutingCounts c;
  c.tokens = f.Int("tokens", 0, kMaxStatisticsTokens);
  c.chunks = f.Int("chunks", 0, c.tokens);
  c.counts = ReadLists(f, "counts", layers, experts);
  c.distances = ReadLists(f, "distances", layers, experts + 1);
  c.ranks = ReadLists(f, "ranks", layers, experts + 1);
  c.chunk_uses = ReadLists(f, "chunk_uses", layers, experts);
  const auto choices = static_cast<std::uint64_t>(c.tokens * s.experts_per_token);
  for (std::size_t l = 0; l < c.counts.size(); ++l) {
    if (c.counts[l].empty()) continue;
    CheckSum(c.counts[l], choices, fmt::format("{}[{}]", f.Where("counts"), l));
  }
  CheckLists(c.distances, c.counts, choices, f, "distances");
  CheckLists(c.ranks, c.counts, choices, f, "ranks");
  CheckChunks(c, f);
  return c;
}

void ReadDomains(const Json& json, RoutingStatistics& s, const std::string& file) {
  if (!json.is_array() || json.size() > kMaxDomains) {
    Throw<CheckpointError>("{}: domains: expected a list of at most {}, found {}", file,
                           kMaxDomains, Shown(json));
  }
  std::set<std::string> names;
  for (const Json& one : json) {
    const Fields f(one, file, fmt::format("domains[{}].", s.domains.size()),
                   {"name", "prefill", "decode"});
    RoutingDomain domain{.name = f.Text("name"), .phases = {}};
    if (!names.insert(domain.name).second) {
      Throw<CheckpointError>("{}: {} is the name of an earlier domain", f.Where("name"),
                             QuotedName(domain.name));
    }
    for (std::size_t p = 0; p < kNumPhases; ++p) {
      domain.phases[p] = ReadPhase(f, kPhaseNames[p], s);
    }
    s.domains.push_back(std::move(domain));
  }
}

// Format and version come first: a newer file may hold anything else.
void CheckVersion(const Json& json, const std::string& file) {
  if (!json.is_object() || json.value("format", Json()) != Json(kFormat)) {
    Throw<CheckpointError>("{}: format: expected '{}': not a file of `tandem calibrate`", file,
                           kFormat);
  }
  const Json version = json.value("version", Json());
  if (version == Json(kVersion)) return;
  if (version.is_number_unsigned() && version.get<std::uint64_t>() > kVersion) {
    Throw<CheckpointError>(
        "{}: version: {}, made by a newer version of tandem (this one reads {}): "
        "use that one, or run `tandem calibrate` again",
        file, version.get<std::uint64_t>(), kVersion);
  }
  Throw<CheckpointError>("{}: version: expected {}, found {}", file, kVersion, Shown(version));
}

std::string ReadFingerprint(const Fields& f) {
  std::string digits = f.Text("fingerprint");
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (digits.size() != 16 || !std::ranges::all_of(digits, is_digit)) {
    Throw<CheckpointError>("{}: expected 16 hexadecimal digits, found {}", f.Where("fingerprint"),
                           Shown(Json(digits)));
  }
  return digits;
}

}  // namespace

std::string QuotedName(const std::string& name) {
  return Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ToJson(const RoutingStatistics& s) {
  std::string text = fmt::format(
      "{{\"format\": \"{}\", \"version\": {},\n\"model\": {}, \"fingerprint\": \"{}\",\n"
      "\"layers\": {}, \"experts\": {}, \"experts_per_token\": {},\n\"domains\": [",
      kFormat, kVersion, QuotedName(s.model), s.fingerprint, s.layers, s.experts,
      s.experts_per_token);
  for (std::size_t i = 0; i < s.domains.size(); ++i) {
    text += fmt::format("{}\n{}", i == 0 ? "" : ",", DomainText(s.domains[i]));
  }
  return text + "]}\n";
}

RoutingStatistics ParseStatistics(const std::string& json, const std::string& file) {
  if (json.size() > kMaxBytes) {
    Throw<CheckpointError>("{}: has {} bytes, expected at most {}", file, json.size(), kMaxBytes);
  }
  Guard guard(file);
  const auto check = [&guard](int depth, Json::parse_event_t event, Json& parsed) {
    return guard(depth, event, parsed);
  };
  const Json root = Json::parse(json, check, /*allow_exceptions=*/false);
  if (root.is_discarded()) {
    Throw<CheckpointError>("{}: not valid JSON: damaged; run `tandem calibrate` again", file);
  }
  CheckVersion(root, file);
  const Fields f(root, file, "",
                 {"format", "version", "model", "fingerprint", "layers", "experts",
                  "experts_per_token", "domains"});
  RoutingStatistics s;
  s.model = f.Text("model");
  s.fingerprint = ReadFingerprint(f);
  s.layers = f.Int("layers", 1, kMaxLayers);
  s.experts = f.Int("experts", 1, kMaxExperts);
  s.experts_per_token = f.Int("experts_per_token", 1, s.experts);
  ReadDomains(f.Get("domains"), s, file);
  return s;
}

RoutingStatistics ReadStatistics(const std::string& file) {
  return ParseStatistics(ReadWholeFile(std::filesystem::path(file), kMaxBytes), file);
}

void WriteStatistics(const RoutingStatistics& statistics, const std::string& file) {
  const std::string text = ToJson(statistics);
  if (text.size() > kMaxBytes) {
    throw SystemError(fmt::format("{}: {} bytes are more than the {} that such a file may have: "
                                  "merge fewer domains",
                                  file, text.size(), kMaxBytes),
                      ExitCode::kIo);
  }
  AtomicFileWriter writer(file);
  writer.Write(text);
  writer.Commit();
}

}  // namespace tandem
