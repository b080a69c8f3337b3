// Feeds any bytes to the parser of safetensors headers. The first byte says how much data is to
// follow the header (the parser never looks at it): all sizes that small tensors can tile occur.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "memory/error.h"
#include "model/safetensors.h"

namespace {

// What is accepted must lie inside the file, without overlap.
void Use(const tandem::SafetensorsHeader& header, std::uint64_t data_start,
         std::uint64_t file_size) {
  std::uint64_t sum = data_start;
  for (const tandem::SafetensorsEntry& entry : header.tensors) {
    TANDEM_CHECK(entry.offset >= data_start && entry.offset <= file_size);
    TANDEM_CHECK(entry.bytes <= file_size - entry.offset);
    TANDEM_CHECK(header.Find(entry.name) == &entry);
    sum += entry.bytes;
  }
  TANDEM_CHECK(sum == file_size);
}

void Parse(std::string_view json, std::uint64_t data_bytes) {
  const std::uint64_t file_size = 8 + json.size() + data_bytes;
  Use(tandem::ParseSafetensorsHeader(json, file_size, "fuzz.safetensors"), 8 + json.size(),
      file_size);
}

// The same input as the start of a file, length and all.
void ParseFile(std::span<const std::byte> file) {
  const auto start = file.first(std::min<std::size_t>(8, file.size()));
  const std::uint64_t length =
      tandem::SafetensorsHeaderLength(start, file.size(), "fuzz.safetensors");
  TANDEM_CHECK(length <= file.size() - 8);
}

template <class Act>
void Try(Act act) {
  try {
    act();
  } catch (const tandem::CheckpointError&) {  // the one way in which a bad file may end
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Try([&] { ParseFile(std::as_bytes(std::span(data, size))); });
  if (size == 0) return 0;
  const std::string_view json(reinterpret_cast<const char*>(data + 1), size - 1);
  Try([&] { Parse(json, data[0]); });
  return 0;
}
