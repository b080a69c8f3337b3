// The header of a GGUF file. Everything in it is taken for hostile: every count is held against the
// bytes that are left before anything is reserved for it, and all sums and products are checked.
#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "memory/error.h"
#include "model/gguf.h"
#include "model/gguf_type.h"
#include "model/tokenizer_bytes.h"
#include "model/utf8.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian");

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint32_t kOldestVersion = 2;  // the same layout as 3; 1 had counts of 32 bits
constexpr std::uint32_t kNewestVersion = 3;
constexpr std::uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr std::uint64_t kMaxStringBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;
constexpr std::uint32_t kMaxDims = 4;
// Limits far above every published model, so that what is kept of an entry cannot be much more than
// the entry itself: V3 has 50 keys and 1,100 tensors.
constexpr std::uint64_t kMaxKeys = 1 << 16;
constexpr std::uint64_t kMaxTensors = 1 << 20;
constexpr std::uint64_t kLeastKeyBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::uint64_t kReadAhead = std::uint64_t{256} << 10;

std::optional<std::uint64_t> Times(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Reads from front to back, never past the end, and keeps what it has read.
class Reader {
 public:
  explicit Reader(const GgufInput& input) : input_(input) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return input_.size - at_; }
  const char* data() const { return bytes_.data(); }

  template <class... Args>
  [[noreturn]] void Fail(fmt::format_string<Args...> format, Args&&... args) const {
    Throw<CheckpointError>("{}: offset {}: {}", input_.name, at_,
                           fmt::format(format, std::forward<Args>(args)...));
  }

  // Steps over so many bytes and returns where they begin.
  std::size_t Take(std::uint64_t bytes, std::string_view what) {
    if (bytes > left()) {
      Fail("truncated: {} needs {} bytes, and {} are left; download the file again", what, bytes,
           left());
    }
    Fill(at_ + bytes);
    const auto begin = static_cast<std::size_t>(at_);
    at_ += bytes;
    return begin;
  }

  template <class T>
  T Number(std::string_view what) {
    T value;
    const std::size_t begin = Take(sizeof(value), what);
    std::memcpy(&value, bytes_.data() + begin, sizeof(value));
    return value;
  }

  std::string_view String(std::uint64_t limit, std::string_view what) {
    const auto length = Number<std::uint64_t>(what);
    if (length > limit) Fail("{}: {} bytes long, expected at most {}", what, length, limit);
    const std::size_t begin = Take(length, what);
    return {bytes_.data() + begin, static_cast<std::size_t>(length)};
  }

  // The first `bytes` of what was read.
  std::vector<char> Release(std::size_t bytes) {
    bytes_.resize(bytes);
    bytes_.shrink_to_fit();
    return std::move(bytes_);
  }

 private:
  void Fill(std::uint64_t end) {
    const std::uint64_t have = bytes_.size();
    if (end <= have) return;
    const std::uint64_t want = std::min(input_.size, std::max(end, have + kReadAhead));
    bytes_.resize(want);
    input_.read(have, std::as_writable_bytes(std::span(bytes_)).subspan(have));
  }

  const GgufInput& input_;
  std::vector<char> bytes_;
  std::uint64_t at_ = 0;
};

class Parser {
 public:
  explicit Parser(const GgufInput& input) : input_(input), in_(input) {}

  GgufHeader Parse() {
    ReadMagic();
    ReadVersion();
    const std::uint64_t tensors = Count("number of tensors", kLeastTensorBytes, kMaxTensors);
    const std::uint64_t keys = Count("number of metadata keys", kLeastKeyBytes, kMaxKeys);
    for (std::uint64_t i = 0; i < keys; ++i) ReadPair();
    const std::uint64_t metadata_end = in_.at();
    if (tensors > in_.left() / kLeastTensorBytes) TooMany("number of tensors", tensors);
    header_.tensors.reserve(tensors);
    for (std::uint64_t i = 0; i < tensors; ++i) ReadTensor();
    const std::uint64_t infos_end = in_.at();
    header_.metadata =
        GgufMetadata(input_.name, in_.Release(static_cast<std::size_t>(metadata_end)), places_);
    PlaceData(infos_end);
    CheckNames();
    CheckOverlap();
    return std::move(header_);
  }

 private:
  void ReadMagic() {
    if (in_.left() < kMagic.size()) {
      in_.Fail("too small for a GGUF file: {} bytes", in_.left());
    }
    const std::size_t begin = in_.Take(kMagic.size(), "the magic");
    const std::string_view magic(in_.data() + begin, kMagic.size());
    if (magic == kMagic) return;
    if (magic == "vers") {
      Throw<CheckpointError>(
          "{}: is a git-lfs pointer, not the weights: run 'git lfs pull' in that repository",
          input_.name);
    }
    Throw<CheckpointError>(
        "{}: no GGUF file: expected it to begin with 'GGUF', found {} (--model takes a GGUF file, "
        "or a folder with config.json and safetensors files)",
        input_.name, QuotedToken(LossyUtf8(magic)));
  }

  void ReadVersion() {
    header_.version = in_.Number<std::uint32_t>("the version");
    if (header_.version >= kOldestVersion && header_.version <= kNewestVersion) return;
    const bool swapped = header_.version != 0 && (header_.version & 0xFFFF) == 0;
    in_.Fail("GGUF version {}{}; supported: {} and {}, little endian", header_.version,
             swapped ? fmt::format(" (version {} of the other endianness: a big-endian file)",
                                   __builtin_bswap32(header_.version))
                     : std::string(),
             kOldestVersion, kNewestVersion);
  }

  [[noreturn]] void TooMany(std::string_view what, std::uint64_t count) {
    in_.Fail("{}: {} cannot be, with {} bytes left", what, static_cast<std::int64_t>(count),
             in_.left());
  }

  std::uint64_t Count(std::string_view what, std::uint64_t least_bytes, std::uint64_t most) {
    const auto count = in_.Number<std::uint64_t>(what);
    if (count > in_.left() / least_bytes) TooMany(what, count);
    if (count > most) in_.Fail("{}: {}; more than {} are not supported", what, count, most);
    return count;
  }

  GgufValueType ReadType(std::string_view key) {
    const auto type = in_.Number<std::uint32_t>("a value's type");
    if (type < kNumGgufValueTypes) return static_cast<GgufValueType>(type);
    in_.Fail("key {}: unknown value type {}", QuotedToken(key), type);
  }

  void ReadPair() {
    GgufMetadata::Place place;
    const std::string key(in_.String(kMaxKeyBytes, "a key"));
    if (key.empty()) in_.Fail("an empty key");
    place.key = static_cast<std::size_t>(in_.at() - key.size());
    place.key_bytes = key.size();
    place.type = ReadType(key);
    if (place.type == GgufValueType::kArray) {
      ReadArray(key, place);
    } else {
      place.value = static_cast<std::size_t>(in_.at());
      ReadScalar(key, place);
    }
    place.value_bytes = static_cast<std::size_t>(in_.at()) - place.value;
    places_.push_back(place);
  }

  void ReadScalar(const std::string& key, GgufMetadata::Place& place) {
    if (place.type == GgufValueType::kString) {
      place.value += sizeof(std::uint64_t);
      in_.String(kMaxStringBytes, key);
      return;
    }
    const std::size_t begin = in_.Take(BytesOf(place.type), key);
    const bool is_bool = place.type == GgufValueType::kBool;
    if (is_bool && static_cast<unsigned char>(in_.data()[begin]) > 1) {
      in_.Fail("key {}: expected a bool (0 or 1), found {}", QuotedToken(key),
               static_cast<unsigned char>(in_.data()[begin]));
    }
  }

  void ReadArray(const std::string& key, GgufMetadata::Place& place) {
    place.element = ReadType(key);
    if (place.element == GgufValueType::kArray) {
      in_.Fail("key {}: an array of arrays", QuotedToken(key));
    }
    place.count = in_.Number<std::uint64_t>("the length of an array");
    place.value = static_cast<std::size_t>(in_.at());
    const bool strings = place.element == GgufValueType::kString;
    const auto bytes = Times(place.count, strings ? sizeof(std::uint64_t) : BytesOf(place.element));
    if (!bytes || *bytes > in_.left()) {
      in_.Fail("key {}: an array of {} elements cannot be, with {} bytes left", QuotedToken(key),
               place.count, in_.left());
    }
    if (!strings) {
      in_.Take(*bytes, key);
      return;
    }
    for (std::uint64_t i = 0; i < place.count; ++i) in_.String(kMaxStringBytes, key);
  }

  void ReadTensor() {
    GgufTensor tensor;
    tensor.name = in_.String(kMaxKeyBytes, "a tensor's name");
    if (tensor.name.empty()) in_.Fail("a tensor with an empty name");
    ReadSizes(tensor);
    const auto id = in_.Number<std::uint32_t>("a tensor's type");
    const GgufTensorType* type = FindGgufType(id);
    if (type == nullptr || type->bytes == 0) {
      FailTensor(tensor, fmt::format("type {}{} is not supported; weights load from {}", id,
                                     type == nullptr ? "" : fmt::format(" ({})", type->name),
                                     LoadableGgufTypes()));
    }
    tensor.dtype = type->dtype;
    tensor.type_name = type->name;
    tensor.bytes = BytesOfTensor(tensor, *type);
    tensor.offset = in_.Number<std::uint64_t>("a tensor's offset");
    header_.tensors.push_back(std::move(tensor));
  }

  void ReadSizes(GgufTensor& tensor) {
    const auto dims = in_.Number<std::uint32_t>("a tensor's number of dimensions");
    if (dims < 1 || dims > kMaxDims) {
      FailTensor(tensor, fmt::format("{} dimensions, expected 1 to {}", dims, kMaxDims));
    }
    for (std::uint32_t i = 0; i < dims; ++i) {
      tensor.ne.push_back(in_.Number<std::int64_t>("a tensor's size"));
      if (tensor.ne.back() < 0) {
        FailTensor(tensor, fmt::format("size {} is negative: {}", i, tensor.ne.back()));
      }
    }
  }

  std::uint64_t BytesOfTensor(const GgufTensor& tensor, const GgufTensorType& type) {
    const std::string shape = fmt::format("{{{}}}", fmt::join(tensor.ne, ", "));
    if (tensor.ne[0] % type.elements != 0) {
      FailTensor(tensor, fmt::format("{}: a row of {} is no whole number of {} blocks of {}", shape,
                                     tensor.ne[0], type.name, type.elements));
    }
    std::optional<std::uint64_t> bytes = type.bytes;
    bytes = Times(*bytes, static_cast<std::uint64_t>(tensor.ne[0] / type.elements));
    for (std::size_t i = 1; bytes && i < tensor.ne.size(); ++i) {
      bytes = Times(*bytes, static_cast<std::uint64_t>(tensor.ne[i]));
    }
    // Half of the range, so that elements and padded sizes fit as well.
    if (!bytes || *bytes > std::uint64_t{1} << 62) {
      FailTensor(tensor, fmt::format("{}: its size overflows 64 bits", shape));
    }
    return *bytes;
  }

  [[noreturn]] void FailTensor(const GgufTensor& tensor, const std::string& what) {
    Throw<CheckpointError>("{}: tensor {}: {}", input_.name, QuotedToken(tensor.name), what);
  }

  std::uint64_t ReadAlignment() {
    constexpr std::string_view kKey = "general.alignment";
    const GgufValue* value = header_.metadata.Find(kKey);
    if (value == nullptr) return kGgufAlignment;
    if (value->type != GgufValueType::kU32) {
      Throw<CheckpointError>("{}: expected u32, found {}", header_.metadata.Where(kKey),
                             value->TypeName());
    }
    const auto alignment = static_cast<std::uint64_t>(header_.metadata.Int(kKey, {0, UINT32_MAX}));
    if (std::has_single_bit(alignment) && alignment <= kMaxAlignment) return alignment;
    Throw<CheckpointError>("{}: expected a power of two up to {}, found {}",
                           header_.metadata.Where(kKey), kMaxAlignment, alignment);
  }

  // Offsets become those within the file.
  void PlaceData(std::uint64_t infos_end) {
    header_.alignment = ReadAlignment();
    const std::uint64_t mask = header_.alignment - 1;
    header_.data_start = (infos_end + mask) & ~mask;  // infos_end is at most the file's size
    header_.data_end = infos_end;
    for (GgufTensor& tensor : header_.tensors) {
      if ((tensor.offset & mask) != 0) {
        FailTensor(tensor, fmt::format("offset {} is no multiple of the alignment {}",
                                       tensor.offset, header_.alignment));
      }
      std::uint64_t end = 0;
      const bool overflow =
          __builtin_add_overflow(tensor.offset, header_.data_start, &tensor.offset) ||
          __builtin_add_overflow(tensor.offset, tensor.bytes, &end);
      if (overflow || end > input_.size) {
        FailTensor(tensor, fmt::format("{} bytes from offset {} on do not lie in the file, which "
                                       "has {} bytes: it is truncated or damaged, download it "
                                       "again",
                                       tensor.bytes, tensor.offset, input_.size));
      }
      header_.data_end = std::max(header_.data_end, end);
    }
  }

  void CheckNames() {
    std::vector<std::string_view> names;
    names.reserve(header_.tensors.size());
    for (const GgufTensor& tensor : header_.tensors) names.push_back(tensor.name);
    std::ranges::sort(names);
    const auto doubled = std::ranges::adjacent_find(names);
    if (doubled == names.end()) return;
    Throw<CheckpointError>("{}: tensor {} is given twice", input_.name, QuotedToken(*doubled));
  }

  void CheckOverlap() {
    std::vector<const GgufTensor*> sorted;
    for (const GgufTensor& tensor : header_.tensors) {
      if (tensor.bytes > 0) sorted.push_back(&tensor);
    }
    std::ranges::sort(sorted, {}, &GgufTensor::offset);
    for (std::size_t i = 1; i < sorted.size(); ++i) {
      const GgufTensor& before = *sorted[i - 1];
      if (sorted[i]->offset >= before.offset + before.bytes) continue;
      FailTensor(*sorted[i], fmt::format("begins at offset {}, inside tensor {} ({} bytes from "
                                         "offset {} on)",
                                         sorted[i]->offset, QuotedToken(before.name), before.bytes,
                                         before.offset));
    }
  }

  const GgufInput& input_;
  Reader in_;
  GgufHeader header_;
  std::vector<GgufMetadata::Place> places_;
};

}  // namespace

GgufHeader ParseGguf(const GgufInput& input) { return Parser(input).Parse(); }

}  // namespace tandem
