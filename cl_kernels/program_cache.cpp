#include "cl_kernels/program_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

namespace tandem::cl {
namespace {

// File: magic | u64 key size | key | u64 binary size | binary | u64 hash of all before it.
constexpr std::string_view kMagic = "TANDEMCL";

std::uint64_t Fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

void AppendNumber(std::string& out, std::uint64_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Encode(const std::string& key, const std::vector<unsigned char>& binary) {
  std::string out(kMagic);
  AppendNumber(out, key.size());
  out += key;
  AppendNumber(out, binary.size());
  out.append(reinterpret_cast<const char*>(binary.data()), binary.size());
  AppendNumber(out, Fnv1a(out));
  return out;
}

// Compares with what Encode would have written around the binary, so no length in the file is
// believed before it has been checked.
std::optional<std::vector<unsigned char>> Decode(std::string_view file, const std::string& key) {
  std::string head(kMagic);
  AppendNumber(head, key.size());
  head += key;
  constexpr std::size_t kNumber = sizeof(std::uint64_t);
  if (!file.starts_with(head) || file.size() < head.size() + 2 * kNumber) return std::nullopt;
  const std::size_t size = file.size() - head.size() - 2 * kNumber;
  std::string tail;
  AppendNumber(tail, Fnv1a(file.substr(0, file.size() - kNumber)));
  std::string count;
  AppendNumber(count, size);
  if (file.substr(head.size(), kNumber) != count || !file.ends_with(tail)) return std::nullopt;
  const std::string_view binary = file.substr(head.size() + kNumber, size);
  return std::vector<unsigned char>(binary.begin(), binary.end());
}

// Unique among threads and processes, so that two writers never share a file.
std::filesystem::path TemporaryName(const std::filesystem::path& file) {
  static std::atomic<unsigned> counter{0};
  return file.string() + fmt::format(".{}.{}.tmp", getpid(), counter++);
}

}  // namespace

std::filesystem::path ProgramCache::FileOf(const std::string& key) const {
  return directory_ / fmt::format("{:016x}.clbin", Fnv1a(key));
}

std::optional<std::vector<unsigned char>> ProgramCache::Load(const std::string& key) const {
  std::error_code ignored;
  if (directory_.empty() || !std::filesystem::is_regular_file(FileOf(key), ignored)) {
    return std::nullopt;
  }
  std::ifstream in(FileOf(key), std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return in.bad() ? std::nullopt : Decode(file, key);
}

void ProgramCache::Store(const std::string& key,
                         const std::vector<unsigned char>& binary) const noexcept {
  if (directory_.empty()) return;
  try {
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    const std::filesystem::path file = FileOf(key);
    const std::filesystem::path temporary = TemporaryName(file);
    std::ofstream out(temporary, std::ios::binary);
    const std::string bytes = Encode(key, binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.close();
    if (out) std::filesystem::rename(temporary, file, error);
    if (!out || error) std::filesystem::remove(temporary, error);
  } catch (const std::exception&) {  // out of memory or a path too long: no cache, which is allowed
  }
}

}  // namespace tandem::cl
