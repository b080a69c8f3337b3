// Feeds any bytes to the reader of GGUF headers, to that of tokenizers in their metadata, and as a
// file in memory to all that opens a model.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "memory/error.h"
#include "model/gguf.h"
#include "model/open_model.h"
#include "model/tokenizer.h"
#include "model/tokenizer_gguf.h"

namespace {

// What is accepted must lie inside the file.
tandem::GgufHeader Parse(std::span<const std::byte> file) {
  const auto read = [file](std::uint64_t offset, std::span<std::byte> dst) {
    TANDEM_CHECK(offset <= file.size() && dst.size() <= file.size() - offset);
    std::memcpy(dst.data(), file.data() + offset, dst.size());
  };
  tandem::GgufHeader header = tandem::ParseGguf({"fuzz.gguf", file.size(), read});
  for (const tandem::GgufTensor& tensor : header.tensors) {
    TANDEM_CHECK(tensor.offset % header.alignment == header.data_start % header.alignment);
    TANDEM_CHECK(tensor.offset <= file.size() && tensor.bytes <= file.size() - tensor.offset);
  }
  for (const auto& entry : header.metadata.entries()) {
    TANDEM_CHECK(header.metadata.Find(entry.key) == &entry.value);
    if (entry.value.element == tandem::GgufValueType::kString) header.metadata.Strings(entry.key);
  }
  return header;
}

void Tokenize(const tandem::GgufHeader& header) {
  const tandem::Tokenizer tokenizer(tandem::ReadGgufTokenizer(header.metadata), "fuzz.gguf");
  const auto ids = tokenizer.Encode("Some text, 12345\n\tand more");
  TANDEM_CHECK(tokenizer.Decode(ids, /*with_special=*/true) == "Some text, 12345\n\tand more");
}

// A tensor that a model offers can be read.
void OpenAndRead(std::span<const std::byte> file) {
  static const int fd = memfd_create("fuzz", 0);
  TANDEM_CHECK(fd >= 0 && ftruncate(fd, static_cast<off_t>(file.size())) == 0);
  TANDEM_CHECK(pwrite(fd, file.data(), file.size(), 0) == static_cast<ssize_t>(file.size()));
  const tandem::Model model = tandem::OpenModel(fmt::format("/proc/self/fd/{}", fd));
  for (const tandem::TensorInfo& tensor : model.tensors.all()) {
    std::byte last{};
    if (tensor.data.bytes == 0) continue;
    model.source->Read(tensor, tandem::Piece::kData, tensor.data.bytes - 1, {&last, 1});
  }
}

template <class Act>
void Try(Act act) {
  try {
    act();
  } catch (const tandem::CheckpointError&) {  // the one way in which a bad file may end
  } catch (const tandem::UsageError&) {       // a text that the vocabulary has no bytes for
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  Try([&] { Tokenize(Parse(file)); });
  Try([&] { OpenAndRead(file); });
  return 0;
}
