#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "memory/error.h"
#include "model/json.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little endian");

constexpr std::size_t kLengthBytes = 8;
constexpr IntRange kAnySize{0, std::int64_t{1} << 62};

// Bits of the types that safetensors has and Tandem does not use: their sizes are checked all the
// same, as any disagreement means that the file is damaged.
struct BitsRow {
  std::string_view name;
  std::uint64_t bits;
};
constexpr std::array<BitsRow, 11> kUnusedBits{{{"F4", 4},
                                               {"F6_E2M3", 6},
                                               {"F6_E3M2", 6},
                                               {"F8_E5M2", 8},
                                               {"F8_E8M0", 8},
                                               {"F8_E4M3FNUZ", 8},
                                               {"F8_E5M2FNUZ", 8},
                                               {"U16", 16},
                                               {"U32", 32},
                                               {"U64", 64},
                                               {"C64", 64}}};

// nullopt for a word that is no dtype.
std::optional<std::uint64_t> BitsOf(const SafetensorsEntry& entry) {
  if (entry.dtype != DType::kOther) return 8 * BytesOf(entry.dtype);
  for (const BitsRow& row : kUnusedBits) {
    if (row.name == entry.dtype_name) return row.bits;
  }
  return std::nullopt;
}

// What is being parsed, for messages.
struct Place {
  const std::string& file;
  const std::string& tensor;

  template <class... Args>
  [[noreturn]] void Fail(fmt::format_string<Args...> format, Args&&... args) const {
    Throw<CheckpointError>("{}: tensor '{}': {}", file, tensor,
                           fmt::format(format, std::forward<Args>(args)...));
  }
};

simdjson::dom::array Array(const JsonFields& fields, std::string_view key, const Place& place) {
  const auto value = fields.Find(key);
  simdjson::dom::array array;
  if (!value || value->get(array) != simdjson::SUCCESS) {
    place.Fail("{}: expected a list, found {}", key, value ? Shown(*value) : "nothing");
  }
  return array;
}

std::vector<std::int64_t> SizeList(const JsonFields& fields, std::string_view key,
                                   const Place& place) {
  std::vector<std::int64_t> sizes;
  for (const simdjson::dom::element one : Array(fields, key, place)) {
    std::int64_t size = 0;
    const bool whole = one.get(size) == simdjson::SUCCESS;
    if (!whole || size < kAnySize.low || size > kAnySize.high) {
      place.Fail("{}: expected whole numbers from 0 to 2^62, found {}", key, Shown(one));
    }
    sizes.push_back(size);
  }
  return sizes;
}

void CheckBytes(const SafetensorsEntry& entry, const Place& place) {
  const std::optional<std::uint64_t> type_bits = BitsOf(entry);
  if (!type_bits) return;
  std::uint64_t bits = *type_bits;
  bool overflow = false;
  for (const std::int64_t dim : entry.shape) {
    overflow |= __builtin_mul_overflow(bits, static_cast<std::uint64_t>(dim), &bits);
  }
  const std::string shape = fmt::format("{}", fmt::join(entry.shape, ", "));
  if (overflow) place.Fail("shape [{}]: its size overflows 64 bits", shape);
  if (bits % 8 != 0) {
    place.Fail("shape [{}] of {}: {} bits are no whole number of bytes", shape, entry.dtype_name,
               bits);
  }
  if (bits / 8 != entry.bytes) {
    place.Fail("shape [{}] of {} takes {} bytes, data_offsets give {}", shape, entry.dtype_name,
               bits / 8, entry.bytes);
  }
}

// `offset` stays relative to the data until the tiling has been checked.
SafetensorsEntry ParseEntry(std::string_view name, simdjson::dom::element value,
                            const std::string& file) {
  SafetensorsEntry entry;
  entry.name = name;
  const Place place{file, entry.name};
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) {
    place.Fail("expected an object with dtype, shape and data_offsets, found {}", Shown(value));
  }
  const JsonFields fields(object, file, entry.name + ".");
  entry.dtype_name = fields.String("dtype", "");
  if (entry.dtype_name.empty()) place.Fail("has no dtype");
  entry.dtype = ParseDType(entry.dtype_name).value_or(DType::kOther);
  entry.shape = SizeList(fields, "shape", place);
  const std::vector<std::int64_t> offsets = SizeList(fields, "data_offsets", place);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    place.Fail("data_offsets: expected [begin, end] with begin <= end, found [{}]",
               fmt::join(offsets, ", "));
  }
  entry.offset = static_cast<std::uint64_t>(offsets[0]);
  entry.bytes = static_cast<std::uint64_t>(offsets[1] - offsets[0]);
  CheckBytes(entry, place);
  return entry;
}

std::map<std::string, std::string> ParseMetadata(simdjson::dom::element value,
                                                 const std::string& file) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) {
    Throw<CheckpointError>("{}: __metadata__: expected an object, found {}", file, Shown(value));
  }
  std::map<std::string, std::string> metadata;
  const JsonFields fields(object, file, "__metadata__.");
  for (const auto& [key, text] : fields.all()) {
    std::string_view view;
    if (text.get(view) != simdjson::SUCCESS) {
      Throw<CheckpointError>("{}: __metadata__.{}: expected a string, found {}", file, key,
                             Shown(text));
    }
    metadata.emplace(key, view);
  }
  return metadata;
}

std::string TruncatedMessage(const std::string& file, std::uint64_t found, std::uint64_t expected) {
  return fmt::format("{}: truncated: {} of {} bytes are there; download the file again", file,
                     found, expected);
}

// The tensors must lie one after the other from the first data byte to the last: no hole can then
// hide data, and no byte belongs to two tensors. Tensors without elements may sit at any boundary.
void CheckTiling(std::vector<SafetensorsEntry>& tensors, std::uint64_t data_start,
                 std::uint64_t file_size, const std::string& file) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  std::uint64_t cursor = 0;
  for (const SafetensorsEntry& entry : tensors) {
    if (entry.offset != cursor) {
      Place{file, entry.name}.Fail("starts at data offset {}, expected {} ({})", entry.offset,
                                   cursor, entry.offset < cursor ? "tensors overlap" : "a hole");
    }
    cursor += entry.bytes;
  }
  const std::uint64_t expected = data_start + cursor;
  if (expected > file_size) throw CheckpointError(TruncatedMessage(file, file_size, expected));
  if (expected < file_size) {
    Throw<CheckpointError>(
        "{}: {} bytes after the last tensor (expected {} bytes in all, found {})", file,
        file_size - expected, expected, file_size);
  }
}

std::string EntryJson(const SafetensorsTensor& tensor, std::uint64_t begin) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", tensor.name,
                     Name(tensor.dtype), fmt::join(tensor.shape, ","), begin,
                     begin + tensor.bytes.size());
}

// Names and metadata that this program writes need no escapes; anything else is a caller's bug.
void CheckPlain(std::string_view text) {
  TANDEM_CHECK(std::all_of(text.begin(), text.end(),
                           [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; }));
}

void CheckTensor(const SafetensorsTensor& tensor) {
  CheckPlain(tensor.name);
  std::uint64_t bytes = BytesOf(tensor.dtype);
  for (const std::int64_t dim : tensor.shape) bytes *= static_cast<std::uint64_t>(dim);
  TANDEM_CHECK(bytes == tensor.bytes.size());
}

std::string HeaderJson(std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> parts;
  std::vector<std::string> notes;
  for (const auto& [key, text] : metadata) {
    CheckPlain(key);
    CheckPlain(text);
    notes.push_back(fmt::format(R"("{}":"{}")", key, text));
  }
  if (!notes.empty())
    parts.push_back(fmt::format(R"("__metadata__":{{{}}})", fmt::join(notes, ",")));
  std::uint64_t begin = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    CheckTensor(tensor);
    parts.push_back(EntryJson(tensor, begin));
    begin += tensor.bytes.size();
  }
  std::string json = fmt::format("{{{}}}", fmt::join(parts, ","));
  json.resize((json.size() + 7) / 8 * 8, ' ');  // so that the data is aligned in the file
  return json;
}

}  // namespace

const SafetensorsEntry* SafetensorsHeader::Find(std::string_view name) const {
  const auto at = std::lower_bound(tensors.begin(), tensors.end(), name,
                                   [](const auto& entry, auto key) { return entry.name < key; });
  return at == tensors.end() || at->name != name ? nullptr : &*at;
}

std::uint64_t SafetensorsHeaderLength(std::span<const std::byte> start, std::uint64_t file_size,
                                      const std::string& file) {
  if (start.size() >= kLengthBytes && std::memcmp(start.data(), "version ", kLengthBytes) == 0) {
    Throw<CheckpointError>(
        "{}: is a git-lfs pointer, not the weights: run 'git lfs pull' in that repository", file);
  }
  if (start.size() < kLengthBytes) {
    Throw<CheckpointError>("{}: too small for a safetensors file: {} of at least 8 bytes", file,
                           start.size());
  }
  std::uint64_t length = 0;
  std::memcpy(&length, start.data(), kLengthBytes);
  if (length < 2 || length > kMaxSafetensorsHeader) {
    Throw<CheckpointError>("{}: no safetensors file: header length expected from 2 to {}, found {}",
                           file, kMaxSafetensorsHeader, length);
  }
  if (length > file_size - kLengthBytes) {
    throw CheckpointError(TruncatedMessage(file, file_size, length + kLengthBytes) +
                          " (header alone)");
  }
  return length;
}

SafetensorsHeader ParseSafetensorsHeader(std::string_view json, std::uint64_t file_size,
                                         const std::string& file) {
  if (json.empty() || json.front() != '{') {
    Throw<CheckpointError>("{}: header: expected JSON that starts with '{{'", file);
  }
  const JsonDocument document(json, file);
  const JsonFields fields(document.Object(), file);
  SafetensorsHeader header;
  for (const auto& [name, value] : fields.all()) {
    if (name == "__metadata__") {
      header.metadata = ParseMetadata(value, file);
    } else {
      header.tensors.push_back(ParseEntry(name, value, file));
    }
  }
  const std::uint64_t data_start = kLengthBytes + json.size();
  CheckTiling(header.tensors, data_start, file_size, file);
  for (SafetensorsEntry& entry : header.tensors) entry.offset += data_start;
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return header;
}

SafetensorsHeader ReadSafetensorsHeader(const File& file) {
  std::vector<std::byte> start(std::min<std::uint64_t>(kLengthBytes, file.size()));
  file.PReadExact(0, start);
  const std::uint64_t length = SafetensorsHeaderLength(start, file.size(), file.path());
  std::string json(length, '\0');
  file.PReadExact(kLengthBytes, std::as_writable_bytes(std::span(json)));
  return ParseSafetensorsHeader(json, file.size(), file.path());
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(File::Open(path)), header_(ReadSafetensorsHeader(file_)) {}

const SafetensorsEntry& SafetensorsFile::Get(std::string_view name) const {
  const SafetensorsEntry* entry = header_.Find(name);
  if (entry == nullptr) Throw<CheckpointError>("{}: has no tensor '{}'", file_.path(), name);
  return *entry;
}

std::vector<std::byte> SafetensorsFile::Bytes(std::string_view name) const {
  const SafetensorsEntry& entry = Get(name);
  std::vector<std::byte> bytes(entry.bytes);
  file_.PReadExact(entry.offset, bytes);
  return bytes;
}

template <class T>
std::vector<T> SafetensorsFile::Values(std::string_view name, DType dtype) const {
  const SafetensorsEntry& entry = Get(name);
  if (entry.dtype != dtype) {
    Throw<CheckpointError>("{}: tensor '{}': expected dtype {}, found {}", file_.path(), name,
                           Name(dtype), entry.dtype_name);
  }
  std::vector<T> values(entry.bytes / sizeof(T));
  file_.PReadExact(entry.offset, std::as_writable_bytes(std::span(values)));
  return values;
}

std::vector<float> SafetensorsFile::Floats(std::string_view name) const {
  return Values<float>(name, DType::kF32);
}

std::vector<std::int32_t> SafetensorsFile::Ints(std::string_view name) const {
  return Values<std::int32_t>(name, DType::kI32);
}

void WriteSafetensors(const std::filesystem::path& path, std::span<const SafetensorsTensor> tensors,
                      const std::map<std::string, std::string>& metadata) {
  const std::string json = HeaderJson(tensors, metadata);
  const std::uint64_t length = json.size();
  AtomicFileWriter writer(path);
  writer.Write(std::as_bytes(std::span(&length, 1)));
  writer.Write(json);
  for (const SafetensorsTensor& tensor : tensors) writer.Write(tensor.bytes);
  writer.Commit();
}

}  // namespace tandem
