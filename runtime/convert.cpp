#include "runtime/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "memory/error.h"
#include "model/gguf.h"
#include "model/gguf_name.h"
#include "model/gguf_writer.h"
#include "model/gguf_writer_config.h"
#include "model/gguf_writer_tokenizer.h"
#include "runtime/prompt.h"

namespace tandem {
namespace {

constexpr std::uint32_t kQuantizationVersion = 2;  // of ggml's block formats
constexpr std::int64_t kPieceValues = std::int64_t{1} << 20;

// A tensor of the file and what it is made of: one tensor of the model, or all experts of a layer.
struct OutTensor {
  GgufOutTensor info;
  std::vector<const TensorInfo*> parts;
};

// Rows of a part, which lie at `offset` in tensor `tensor` of the file.
struct PieceOfWork {
  std::size_t tensor;
  const TensorInfo* part;
  std::uint64_t part_offset;
  std::uint64_t offset;
  std::uint64_t bytes;
};

// Fastest dimension first. The parts of kv_b have one more, the heads.
std::vector<std::int64_t> DimensionsOf(const TensorInfo& tensor, const Config& config) {
  std::vector<std::int64_t> dimensions(tensor.shape.rbegin(), tensor.shape.rend());
  if (tensor.part == Part::kKB || tensor.part == Part::kVB) {
    dimensions.push_back(config.num_attention_heads);
    dimensions[1] /= config.num_attention_heads;
  }
  return dimensions;
}

std::vector<OutTensor> OutTensors(const Model& model) {
  std::vector<OutTensor> tensors;
  // Experts lie one after the other, each with its three matrices.
  std::vector<std::pair<std::string, std::size_t>> stacked;
  for (const TensorInfo& tensor : model.tensors.all()) {
    const std::string name = GgufName(tensor);
    if (tensor.expert > 0) {
      const auto at = std::ranges::find(stacked, name, &std::pair<std::string, std::size_t>::first);
      TANDEM_CHECK(at != stacked.end());
      tensors[at->second].parts.push_back(&tensor);
      continue;
    }
    OutTensor out{{name, DimensionsOf(tensor, model.config), tensor.dtype}, {&tensor}};
    if (tensor.expert == 0) {
      if (tensor.part == Part::kGate) stacked.clear();
      stacked.emplace_back(name, tensors.size());
      out.info.dimensions.push_back(model.config.n_routed_experts);
    }
    tensors.push_back(std::move(out));
  }
  return tensors;
}

void AppendPieces(const OutTensor& tensor, std::size_t index, std::vector<PieceOfWork>& pieces) {
  std::uint64_t offset = 0;
  for (const TensorInfo* part : tensor.parts) {
    const std::int64_t cols = part->shape.size() < 2 ? part->elements() : part->cols();
    const std::uint64_t row_bytes = DataBytes(part->dtype, cols);
    const std::uint64_t most =
        row_bytes * static_cast<std::uint64_t>(std::max<std::int64_t>(1, kPieceValues / cols));
    for (std::uint64_t at = 0; at < part->data.bytes; at += most) {
      const std::uint64_t bytes = std::min(most, part->data.bytes - at);
      pieces.push_back({index, part, at, offset + at, bytes});
    }
    offset += part->data.bytes;
  }
}

// Works through the pieces with several threads, which take them in the file's order.
class Conversion {
 public:
  Conversion(const TensorSource& source, const std::vector<PieceOfWork>& pieces, GgufWriter& writer,
             ProgressSink* progress)
      : source_(source), pieces_(pieces), writer_(writer), progress_(progress) {}

  void Run(int threads) {
    std::vector<std::jthread> team;
    for (int i = 0; i < threads; ++i) team.emplace_back([this] { Work(); });
    team.clear();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void Work() {
    try {
      std::vector<std::byte> bytes;
      for (std::size_t i = next_++; i < pieces_.size() && !stop_; i = next_++) {
        DoOne(pieces_[i], bytes);
      }
    } catch (...) {
      {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
        stop_ = true;
      }
      writer_.Stop();
    }
  }

  void DoOne(const PieceOfWork& piece, std::vector<std::byte>& bytes) {
    bytes.resize(piece.bytes);
    source_.Read(*piece.part, Piece::kData, piece.part_offset, bytes);
    writer_.Write(piece.tensor, piece.offset, bytes);
    const std::uint64_t done = done_ += piece.bytes;
    if (progress_ == nullptr) return;
    progress_->Update(done);
    if (progress_->Cancelled()) throw Error(ExitCode::kIo, "converting was interrupted");
  }

  const TensorSource& source_;
  const std::vector<PieceOfWork>& pieces_;
  GgufWriter& writer_;
  ProgressSink* progress_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

void AddVocabularyOf(const Model& model, GgufKeyValues& metadata) {
  if (model.path.empty()) return AddVocabulary(SyntheticVocabulary(model.config), metadata);
  if (IsModelFile(model.path)) return CopyVocabulary(Gguf(model.path).metadata(), metadata);
  GgufVocabulary vocabulary = ReadVocabulary(model.path, model.config);
  vocabulary.add_bos = ReadAddBos(model.path);
  AddVocabulary(vocabulary, metadata);
}

// A model that has kv_b in two parts already stays so.
KvbForm FormOf(const Model& model) {
  const TensorInfo* split = model.tensors.Find(Role::kAttention, Part::kKB, 0);
  return split != nullptr ? KvbForm::kSplit : KvbFormFor(model.config);
}

bool IsQuantized(const std::vector<OutTensor>& tensors) {
  return std::ranges::any_of(
      tensors, [](const OutTensor& tensor) { return IsBlockFormat(tensor.info.format); });
}

GgufKeyValues MetadataOf(const Model& model, const Recipe& recipe, KvbForm form, bool quantized) {
  GgufKeyValues metadata;
  AddGgufConfig(model.config, form, metadata);
  metadata.Add("general.type", "model");
  metadata.Add("general.name", model.name);
  if (const auto type = GgufFileType(recipe.mix)) metadata.Add("general.file_type", *type);
  if (quantized) metadata.Add("general.quantization_version", kQuantizationVersion);
  AddVocabularyOf(model, metadata);
  return metadata;
}

std::vector<ConvertedPart> PartsOf(const TensorList& tensors) {
  std::vector<ConvertedPart> parts;
  for (const TensorInfo& tensor : tensors.all()) {
    auto at = std::ranges::find_if(parts, [&](const ConvertedPart& part) {
      return part.role == tensor.role && part.format == tensor.dtype;
    });
    if (at == parts.end()) at = parts.insert(at, {tensor.role, tensor.dtype});
    at->values += tensor.elements();
    at->bytes += tensor.data.bytes;
  }
  std::ranges::stable_sort(parts, {}, &ConvertedPart::role);
  return parts;
}

void CheckOut(const ConvertOptions& options) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(options.out, error);
  if (options.overwrite || !std::filesystem::exists(status)) return;
  Throw<UsageError>("{}: there already; --force overwrites it", options.out);
}

}  // namespace

ConvertResult Convert(const Model& model, const ConvertOptions& options, ProgressSink* progress) {
  CheckOut(options);
  CheckGgufConfig(model.config);
  const KvbForm form = FormOf(model);
  QuantizedModel quantized = QuantizedForGguf(model, options.recipe, form);
  const std::vector<OutTensor> tensors = OutTensors(quantized.model);
  std::vector<GgufOutTensor> infos;
  std::vector<PieceOfWork> pieces;
  std::uint64_t bytes = 0;
  for (const OutTensor& tensor : tensors) {
    AppendPieces(tensor, infos.size(), pieces);
    infos.push_back(tensor.info);
    bytes += tensor.info.bytes();
  }

  const auto start = std::chrono::steady_clock::now();
  GgufWriter writer(options.out, MetadataOf(model, options.recipe, form, IsQuantized(tensors)),
                    std::move(infos));
  if (progress != nullptr) progress->Begin("converting", bytes);
  const auto cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  Conversion(*quantized.model.source, pieces, writer, progress)
      .Run(options.threads > 0 ? options.threads : cores);
  writer.Finish();
  if (progress != nullptr) progress->End();
  return {
      .file_bytes = writer.file_bytes(),
      .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
      .parts = PartsOf(quantized.model.tensors),
      .unfit = std::move(quantized.unfit),
      .notes = LostInGguf(model.config)};
}

}  // namespace tandem
