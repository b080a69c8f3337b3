#include "model/gguf_writer.h"

#include <xxhash.h>

#include <bit>
#include <utility>

#include "memory/error.h"
#include "model/gguf.h"
#include "model/gguf_type.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little endian");

constexpr std::uint32_t kVersion = 3;
using enum GgufValueType;

template <class T>
void Append(std::string& to, const T& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendString(std::string& to, std::string_view text) {
  Append(to, std::uint64_t{text.size()});
  to.append(text);
}

void AppendArrayStart(std::string& to, GgufValueType type, std::size_t count) {
  Append(to, type);
  Append(to, std::uint64_t{count});
}

std::uint64_t Aligned(std::uint64_t bytes) {
  return (bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
}

}  // namespace

void GgufKeyValues::Key(std::string_view key, GgufValueType type) {
  AppendString(bytes_, key);
  Append(bytes_, type);
  ++count_;
}

void GgufKeyValues::Add(std::string_view key, std::uint32_t value) {
  Key(key, kU32);
  Append(bytes_, value);
}

void GgufKeyValues::Add(std::string_view key, float value) {
  Key(key, kF32);
  Append(bytes_, value);
}

void GgufKeyValues::Add(std::string_view key, bool value) {
  Key(key, kBool);
  Append(bytes_, static_cast<std::uint8_t>(value));
}

void GgufKeyValues::Add(std::string_view key, std::string_view value) {
  Key(key, kString);
  AppendString(bytes_, value);
}

void GgufKeyValues::Add(std::string_view key, std::span<const std::string> values) {
  Key(key, kArray);
  AppendArrayStart(bytes_, kString, values.size());
  for (const std::string& value : values) AppendString(bytes_, value);
}

void GgufKeyValues::Add(std::string_view key, std::span<const std::int32_t> values) {
  Key(key, kArray);
  AppendArrayStart(bytes_, kI32, values.size());
  for (const std::int32_t value : values) Append(bytes_, value);
}

void GgufKeyValues::Add(std::string_view key, std::span<const std::uint64_t> values) {
  Key(key, kArray);
  AppendArrayStart(bytes_, kU64, values.size());
  for (const std::uint64_t value : values) Append(bytes_, value);
}

void GgufKeyValues::Add(std::string_view key, const GgufValue& value) {
  Key(key, value.type);
  if (value.type == kArray) AppendArrayStart(bytes_, value.element, value.count);
  if (value.type == kString) return AppendString(bytes_, value.bytes);
  bytes_.append(value.bytes);
}

std::int64_t GgufOutTensor::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t dimension : dimensions) product *= dimension;
  return product;
}

std::uint64_t GgufOutTensor::bytes() const { return DataBytes(format, elements()); }

// How far the data of a tensor has come.
struct GgufWriter::Hash {
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state;  // while the tensor is under way
  std::uint64_t bytes = 0;
  std::uint64_t value = 0;
};

GgufWriter::GgufWriter(const std::filesystem::path& path, GgufKeyValues metadata,
                       std::vector<GgufOutTensor> tensors)
    : metadata_(std::move(metadata)), tensors_(std::move(tensors)), file_(path) {
  std::uint64_t data_bytes = 0;
  for (const GgufOutTensor& tensor : tensors_) {
    TANDEM_CHECK(FindGgufType(tensor.format) != nullptr);
    names_.push_back(tensor.name);
    offsets_.push_back(data_bytes);
    data_bytes += Aligned(tensor.bytes());
  }
  hashes_.resize(tensors_.size());
  // The values of the hashes do not change the header's length.
  data_start_ = Header(std::vector<std::uint64_t>(tensors_.size())).size();
  file_bytes_ = data_start_ + data_bytes;
  file_.Reserve(file_bytes_);
}

GgufWriter::~GgufWriter() = default;

std::string GgufWriter::Header(std::span<const std::uint64_t> hashes) const {
  GgufKeyValues metadata = metadata_;
  metadata.Add(kGgufHashNames, std::span<const std::string>(names_));
  metadata.Add(kGgufHashValues, hashes);
  std::string header = "GGUF";
  Append(header, kVersion);
  Append(header, std::uint64_t{tensors_.size()});
  Append(header, metadata.count());
  header += metadata.bytes();
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const GgufOutTensor& tensor = tensors_[i];
    AppendString(header, tensor.name);
    Append(header, static_cast<std::uint32_t>(tensor.dimensions.size()));
    for (const std::int64_t dimension : tensor.dimensions) Append(header, dimension);
    Append(header, FindGgufType(tensor.format)->id);
    Append(header, offsets_[i]);
  }
  header.resize(Aligned(header.size()));
  return header;
}

void GgufWriter::Write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) {
  TANDEM_CHECK(tensor < tensors_.size() && offset + bytes.size() <= tensors_[tensor].bytes());
  file_.WriteAt(data_start_ + offsets_[tensor] + offset, bytes);
  Hash& hash = hashes_[tensor];
  std::unique_lock lock(mutex_);
  came_.wait(lock, [&] { return stopped_ || hash.bytes == offset; });
  if (stopped_) throw Error(ExitCode::kIo, "writing was stopped");
  if (offset == 0) {
    hash.state.reset(XXH3_createState());
    TANDEM_CHECK(hash.state && XXH3_64bits_reset(hash.state.get()) == XXH_OK);
  }
  // Only the writer of the next piece touches this tensor's state, so the others need not wait.
  lock.unlock();
  XXH3_64bits_update(hash.state.get(), bytes.data(), bytes.size());
  const bool last = offset + bytes.size() == tensors_[tensor].bytes();
  if (last) {
    hash.value = XXH3_64bits_digest(hash.state.get());
    hash.state.reset();
  }
  lock.lock();
  hash.bytes = offset + bytes.size();
  came_.notify_all();
}

void GgufWriter::Stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  came_.notify_all();
}

void GgufWriter::Finish() {
  std::vector<std::uint64_t> values;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    TANDEM_CHECK(hashes_[i].bytes == tensors_[i].bytes());
    values.push_back(hashes_[i].value);
  }
  const std::string header = Header(values);
  TANDEM_CHECK(header.size() == data_start_);
  file_.WriteAt(0, std::as_bytes(std::span(header)));
  file_.Commit();
}

}  // namespace tandem
