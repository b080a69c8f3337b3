#include "runtime/verify.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "memory/dtype.h"
#include "memory/error.h"
#include "memory/file.h"
#include "model/checkpoint.h"
#include "model/finite.h"
#include "model/gguf.h"
#include "model/gguf_writer.h"
#include "model/open_model.h"

namespace tandem {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
constexpr std::size_t kMostListed = 20;

// Bytes of one tensor in a file.
struct Stored {
  std::string name;
  const File* file;
  std::uint64_t offset;
  std::uint64_t bytes;
  DType dtype;
  std::int64_t row_elements;  // of the fastest dimension
  std::optional<std::uint64_t> hash;
};

// Looks at tensors with several threads, one tensor each, and notes what is wrong with them.
class Verifier {
 public:
  Verifier(std::vector<Stored> tensors, ProgressSink* progress)
      : tensors_(std::move(tensors)), progress_(progress) {
    // The largest first, so that no thread is left with one at the end.
    order_.resize(tensors_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::ranges::stable_sort(order_, std::greater<>(),
                             [&](std::size_t i) { return tensors_[i].bytes; });
  }

  // Returns what is wrong, in the tensors' order.
  std::map<std::size_t, std::string> Run(int threads) {
    std::vector<std::jthread> team;
    for (int i = 0; i < threads; ++i) team.emplace_back([this] { Work(); });
    team.clear();
    if (failure_) std::rethrow_exception(failure_);
    return std::move(wrong_);
  }

 private:
  void Work() {
    try {
      std::vector<std::byte> piece(kPieceBytes);
      for (std::size_t i = next_++; i < order_.size() && !stop_; i = next_++) {
        const std::string wrong = Look(tensors_[order_[i]], piece);
        const std::lock_guard lock(mutex_);
        if (!wrong.empty()) wrong_.emplace(order_[i], wrong);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
  }

  // What is wrong with a tensor, or nothing.
  std::string Look(const Stored& tensor, std::vector<std::byte>& piece) {
    const std::size_t block = CanBeNotFinite(tensor.dtype) ? BlockBytes(tensor.dtype) : 1;
    const std::size_t most = piece.size() / block * block;
    const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash(XXH3_createState(),
                                                                               XXH3_freeState);
    TANDEM_CHECK(hash && XXH3_64bits_reset(hash.get()) == XXH_OK);
    std::string wrong;
    for (std::uint64_t at = 0; at < tensor.bytes && !stop_;) {
      const auto bytes = std::span(piece).first(std::min<std::uint64_t>(most, tensor.bytes - at));
      tensor.file->PReadExact(tensor.offset + at, bytes);
      if (tensor.hash) XXH3_64bits_update(hash.get(), bytes.data(), bytes.size());
      if (wrong.empty()) wrong = NotFinite(tensor, at / block, bytes);
      at += bytes.size();
      Count(bytes.size());
    }
    if (tensor.hash && !stop_ && XXH3_64bits_digest(hash.get()) != *tensor.hash) {
      wrong += fmt::format(
          "{}its bytes are not those that were written (XXH3 {:016x}, expected "
          "{:016x})",
          wrong.empty() ? "" : "; ", XXH3_64bits_digest(hash.get()), *tensor.hash);
    }
    return wrong.empty() ? wrong : tensor.name + ": " + wrong;
  }

  static std::string NotFinite(const Stored& tensor, std::uint64_t first_block,
                               std::span<const std::byte> bytes) {
    if (!CanBeNotFinite(tensor.dtype)) return {};
    const std::int64_t at = FirstNotFinite(tensor.dtype, bytes);
    if (at < 0) return {};
    const std::int64_t block = static_cast<std::int64_t>(first_block) + at;
    const std::int64_t element = block * BlockElements(tensor.dtype);
    return fmt::format("{} {} (row {}, column {}) is not finite",
                       IsBlockFormat(tensor.dtype) ? "the scale of block" : "value", block,
                       element / tensor.row_elements, element % tensor.row_elements);
  }

  void Count(std::uint64_t bytes) {
    const std::uint64_t done = done_ += bytes;
    if (progress_ == nullptr) return;
    progress_->Update(done);
    if (progress_->Cancelled()) throw Error(ExitCode::kIo, "verifying was interrupted");
  }

  std::vector<Stored> tensors_;
  ProgressSink* progress_;
  std::vector<std::size_t> order_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::map<std::size_t, std::string> wrong_;
  std::exception_ptr failure_;
};

// The manifest of `tandem convert`: names, and as many hashes.
std::map<std::string, std::uint64_t, std::less<>> Hashes(const Gguf& gguf) {
  std::map<std::string, std::uint64_t, std::less<>> hashes;
  const GgufValue* values = gguf.metadata().Find(kGgufHashValues);
  if (values == nullptr) return hashes;
  const std::vector<std::string_view> names = gguf.metadata().Strings(kGgufHashNames);
  const bool right = values->type == GgufValueType::kArray &&
                     values->element == GgufValueType::kU64 && values->count == names.size();
  if (!right) {
    Throw<CheckpointError>("{}: expected an array of {} u64, one for each name in {}, found {}",
                           gguf.metadata().Where(kGgufHashValues), names.size(), kGgufHashNames,
                           values->TypeName());
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::uint64_t value = 0;
    std::memcpy(&value, values->bytes.data() + i * sizeof(value), sizeof(value));
    hashes.emplace(names[i], value);
  }
  return hashes;
}

std::vector<Stored> StoredIn(const Gguf& gguf) {
  const auto hashes = Hashes(gguf);
  for (const auto& [name, value] : hashes) {
    if (gguf.Find(name) != nullptr) continue;
    Throw<CheckpointError>("{}: tensor '{}' of its list of hashes is not there", gguf.path(), name);
  }
  std::vector<Stored> stored;
  for (const GgufTensor& t : gguf.tensors()) {
    const auto hash = hashes.find(t.name);
    stored.push_back({t.name, &gguf.files()[static_cast<std::size_t>(t.file)], t.offset, t.bytes,
                      t.dtype, t.ne.empty() ? 1 : t.ne[0],
                      hash == hashes.end() ? std::nullopt : std::optional(hash->second)});
  }
  return stored;
}

std::vector<Stored> StoredIn(const Checkpoint& checkpoint) {
  std::vector<Stored> stored;
  for (const auto& [name, located] : checkpoint.tensors()) {
    const SafetensorsEntry& e = located.entry;
    stored.push_back({name, &checkpoint.files()[static_cast<std::size_t>(located.file)], e.offset,
                      e.bytes, e.dtype, e.shape.empty() ? 1 : e.shape.back(), std::nullopt});
  }
  return stored;
}

VerifyResult VerifyTensors(const std::string& path, std::vector<Stored> stored, int threads,
                           ProgressSink* progress) {
  VerifyResult result;
  result.tensors = std::ssize(stored);
  for (const Stored& tensor : stored) {
    result.bytes += tensor.bytes;
    result.hashed += tensor.hash ? 1 : 0;
  }
  if (progress != nullptr) progress->Begin("verifying", result.bytes);
  const auto wrong = Verifier(std::move(stored), progress).Run(threads);
  if (progress != nullptr) progress->End();
  if (wrong.empty()) return result;
  std::string list;
  std::size_t listed = 0;
  for (const auto& [index, text] : wrong) {
    if (listed++ == kMostListed) break;
    list += (list.empty() ? "" : "; ") + text;
  }
  if (wrong.size() > kMostListed) list += fmt::format(" and {} more", wrong.size() - kMostListed);
  Throw<CheckpointError>("{}: {} of {} tensors are damaged, get the file anew: {}", path,
                         wrong.size(), result.tensors, list);
}

}  // namespace

VerifyResult Verify(const std::string& path, int threads, ProgressSink* progress) {
  const auto start = std::chrono::steady_clock::now();
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int team = threads > 0 ? threads : cores;
  // Opening it as a model checks names, shapes and types against the config.
  const Model model = OpenModel(path);
  VerifyResult result;
  if (IsModelFile(path)) {
    const Gguf gguf(path);
    result = VerifyTensors(path, StoredIn(gguf), team, progress);
    result.files = std::ssize(gguf.files());
  } else {
    const Checkpoint checkpoint(path);
    result = VerifyTensors(path, StoredIn(checkpoint), team, progress);
    result.files = std::ssize(checkpoint.files());
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace tandem
