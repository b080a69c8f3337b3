#include "model/gguf.h"

#include <algorithm>
#include <numeric>
#include <system_error>

#include "memory/error.h"
#include "model/problems.h"
#include "model/tokenizer_bytes.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSplitNo = "split.no";
constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitTensors = "split.tensors.count";
constexpr IntRange kParts{1, 65535};

GgufHeader ParseFile(const File& file) {
  const auto read = [&](std::uint64_t offset, std::span<std::byte> dst) {
    file.PReadExact(offset, dst);
  };
  return ParseGguf({file.path(), file.size(), read});
}

std::string PartEnding(std::int64_t part, std::int64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", part + 1, count);
}

// The names of all parts, from that of one of them.
std::vector<std::string> PartNames(const fs::path& path, const GgufMetadata& metadata,
                                   std::int64_t count) {
  const std::int64_t part = metadata.Int(kSplitNo, {0, count - 1});
  const std::string name = path.filename().string();
  const std::string ending = PartEnding(part, count);
  if (!name.ends_with(ending)) {
    Throw<CheckpointError>(
        "{}: is part {} of {} by its metadata, expected a name that ends with "
        "{}: without it the other parts cannot be found",
        path.string(), part + 1, count, ending);
  }
  const std::string stem = name.substr(0, name.size() - ending.size());
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < count; ++i) names.push_back(stem + PartEnding(i, count));
  return names;
}

void CheckAllThere(const fs::path& folder, const std::vector<std::string>& names) {
  Problems missing{"missing parts", {}};
  for (const std::string& name : names) {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(folder / name, error))) missing.items.push_back(name);
  }
  ThrowIfAny(folder.string(), {missing});
}

// Parts after the first repeat little of the metadata; what they do repeat must agree.
void CheckPart(const GgufMetadata& first, const GgufMetadata& other, std::int64_t part,
               std::int64_t count) {
  if (other.Int(kSplitCount, kParts) != count || other.Int(kSplitNo, {0, kParts.high}) != part) {
    Throw<CheckpointError>("{}: expected part {} of {} by its name, its metadata says {} of {}",
                           other.file(), part + 1, count, other.Int(kSplitNo, {0, kParts.high}) + 1,
                           other.Int(kSplitCount, kParts));
  }
  for (const std::string_view key : {std::string_view("general.architecture"),
                                     std::string_view("general.name"), kSplitTensors}) {
    const GgufValue* a = first.Find(key);
    const GgufValue* b = other.Find(key);
    if (a == nullptr || b == nullptr || a->bytes == b->bytes) continue;
    Throw<CheckpointError>("{}: is a part of another model than {}: they differ in {}",
                           other.file(), first.file(), key);
  }
}

}  // namespace

Gguf::Gguf(const fs::path& path) : path_(path.string()) {
  File file = File::Open(path);
  GgufHeader header = ParseFile(file);
  version_ = header.version;
  alignment_ = header.alignment;
  metadata_ = std::move(header.metadata);
  const std::int64_t count = metadata_.Int(kSplitCount, {0, kParts.high}, 1);
  count > 1 ? OpenParts(count) : Add(std::move(file), std::move(header));
  BuildIndex();
}

void Gguf::OpenParts(std::int64_t count) {
  const fs::path path(path_);
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::vector<std::string> names = PartNames(path, metadata_, count);
  CheckAllThere(folder, names);
  for (std::int64_t i = 0; i < count; ++i) {
    File file = File::OpenInFolder(folder, names[static_cast<std::size_t>(i)]);
    GgufHeader header = ParseFile(file);
    if (i == 0) metadata_ = std::move(header.metadata);
    CheckPart(metadata_, i == 0 ? metadata_ : header.metadata, i, count);
    Add(std::move(file), std::move(header));
  }
  const auto found = static_cast<std::int64_t>(tensors_.size());
  const std::int64_t expected = metadata_.Int(kSplitTensors, {0, INT32_MAX}, found);
  if (found == expected) return;
  Throw<CheckpointError>(
      "{}: {}: expected {} tensors in all {} parts, found {}: they are parts of "
      "several models",
      path_, kSplitTensors, expected, count, found);
}

void Gguf::Add(File file, GgufHeader header) {
  const std::uint64_t padded =
      (header.data_end + header.alignment - 1) / header.alignment * header.alignment;
  if (file.size() > padded) {
    warnings_.push_back(fmt::format("{}: {} bytes behind the last tensor are not used", file.path(),
                                    file.size() - padded));
  }
  for (GgufTensor& tensor : header.tensors) {
    tensor.file = static_cast<int>(files_.size());
    tensors_.push_back(std::move(tensor));
  }
  files_.push_back(std::move(file));
}

void Gguf::BuildIndex() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  const auto name = [this](std::uint32_t i) -> std::string_view { return tensors_[i].name; };
  std::ranges::sort(by_name_, {}, name);
  Problems doubled{"tensors in two parts", {}};
  for (std::size_t i = 1; i < by_name_.size(); ++i) {
    if (name(by_name_[i]) != name(by_name_[i - 1])) continue;
    doubled.items.push_back(QuotedToken(name(by_name_[i])));
  }
  ThrowIfAny(path_, {doubled});
}

const GgufTensor* Gguf::Find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(
      by_name_, name, {}, [this](std::uint32_t i) -> std::string_view { return tensors_[i].name; });
  return at == by_name_.end() || tensors_[*at].name != name ? nullptr : &tensors_[*at];
}

bool IsModelFile(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

}  // namespace tandem
