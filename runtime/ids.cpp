#include "runtime/ids.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "memory/error.h"
#include "memory/file.h"
#include "model/safetensors.h"

namespace tandem {
namespace {

constexpr std::uint64_t kMaxJsonBytes = std::uint64_t{64} << 20;
constexpr std::string_view kIdsTensor = "prompt_ids";
constexpr std::string_view kBetweenIds = " \t\r\n,[]";

std::int32_t ParseId(std::string_view word) {
  std::int32_t id = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
  if (error != std::errc{} || end != word.data() + word.size()) {
    Throw<UsageError>("'{}': expected a token id", word.substr(0, 32));
  }
  return id;
}

// A safetensors file begins with 64 bits of a length below 2^56; JSON text has no NUL.
bool IsSafetensors(const std::filesystem::path& path) {
  const File file = File::Open(path);
  std::array<std::byte, 8> start = {};
  if (file.size() < start.size()) return false;
  file.PReadExact(0, start);
  return std::ranges::find(start, std::byte{0}) != start.end();
}

std::vector<std::int32_t> ReadJsonIds(const std::string& file) {
  const std::string text = ReadWholeFile(std::filesystem::path(file), kMaxJsonBytes);
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto is_id = [](const nlohmann::json& value) {
    return value.is_number_integer() && value >= 0 && value <= INT32_MAX;
  };
  if (!json.is_array() || !std::ranges::all_of(json, is_id)) {
    Throw<CheckpointError>("{}: expected a safetensors file or a JSON list of token ids", file);
  }
  return json.get<std::vector<std::int32_t>>();
}

std::vector<std::int32_t> ReadTensorIds(const std::string& file) {
  const SafetensorsFile tensors(file);
  const SafetensorsEntry& entry = tensors.Get(kIdsTensor);
  if (entry.shape.size() != 1) {
    Throw<CheckpointError>("{}: {}: expected the shape [T], found {} dimensions", file, kIdsTensor,
                           entry.shape.size());
  }
  return tensors.Ints(kIdsTensor);
}

}  // namespace

std::vector<std::int32_t> ReadIds(const std::string& file, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids = IsSafetensors(file) ? ReadTensorIds(file) : ReadJsonIds(file);
  if (ids.empty()) Throw<UsageError>("{}: no token ids", file);
  CheckIds(ids, vocab_size);
  return ids;
}

std::vector<std::int32_t> ParseIds(std::string_view text, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids;
  for (std::size_t at = text.find_first_not_of(kBetweenIds); at != std::string_view::npos;
       at = text.find_first_not_of(kBetweenIds, at)) {
    const std::size_t end = std::min(text.find_first_of(kBetweenIds, at), text.size());
    ids.push_back(ParseId(text.substr(at, end - at)));
    at = end;
  }
  CheckIds(ids, vocab_size);
  return ids;
}

void CheckIds(std::span<const std::int32_t> ids, std::int64_t vocab_size) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    Throw<UsageError>("token id {} at position {}: expected 0 to {}", ids[i], i, vocab_size - 1);
  }
}

}  // namespace tandem
