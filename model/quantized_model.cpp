#include "model/quantized_model.h"

#include <algorithm>
#include <utility>

#include "memory/error.h"
#include "model/quantized_model_source.h"

namespace tandem {
namespace {

// What is done to all tensors of a model.
struct Form {
  bool gguf = false;
  KvbForm kv_b = KvbForm::kSplit;  // of a GGUF file
};

class Builder {
 public:
  Builder(Model source, const Recipe& recipe, Form form)
      : source_(std::move(source)), recipe_(recipe), form_(form) {}

  QuantizedModel Build() {
    for (const TensorInfo& tensor : source_.tensors.all()) {
      from_ = static_cast<std::size_t>(&tensor - source_.tensors.all().data());
      if (form_.gguf && (tensor.role == Role::kMtp || IsTiedHead(tensor))) continue;
      if (Splits(tensor)) {
        AddPart(tensor, Part::kKB);
        AddPart(tensor, Part::kVB);
      } else {
        Add(tensor, Interleaves(tensor) ? RowMap::kInterleave : RowMap::kSame);
      }
    }
    auto source =
        std::make_shared<const QuantizedSource>(source_, TensorList(tensors_), std::move(maps_));
    source_.tensors = TensorList(std::move(tensors_));
    source_.source = std::move(source);
    return {std::move(source_), std::move(unfit_)};
  }

 private:
  const Config& config() const { return source_.config; }

  bool IsTiedHead(const TensorInfo& tensor) const {
    return config().tie_word_embeddings && tensor.part == Part::kLmHead;
  }

  // GGUF's attention rotates neighbours: the families that rotate halves have their rows moved.
  bool Interleaves(const TensorInfo& tensor) const {
    return form_.gguf && config().attention == AttentionKind::kMha &&
           (tensor.part == Part::kQ || tensor.part == Part::kK);
  }

  bool Splits(const TensorInfo& tensor) const {
    if (tensor.part != Part::kKvB) return false;
    if (form_.gguf) return form_.kv_b == KvbForm::kSplit;
    return IsBlockFormat(FormatOf(PartOf(tensor, Part::kVB)).format);
  }

  // k_b or v_b of a kv_b, in its format.
  TensorInfo PartOf(const TensorInfo& kv_b, Part part) const {
    const bool k = part == Part::kKB;
    const std::int64_t heads = config().num_attention_heads;
    TensorInfo tensor = kv_b;
    const std::size_t at = tensor.name.find("kv_b_proj");
    if (at != std::string::npos) tensor.name.replace(at, 9, k ? "k_b_proj" : "v_b_proj");
    tensor.part = part;
    tensor.shape = k ? std::vector{heads * config().kv_lora_rank, config().qk_nope_head_dim}
                     : std::vector{heads * config().v_head_dim, config().kv_lora_rank};
    return tensor;
  }

  FormatChoice FormatOf(const TensorInfo& tensor) const {
    const auto choice = ChooseFormat(recipe_, tensor, config().num_hidden_layers);
    if (choice) return *choice;
    DType kept = tensor.dtype;
    if (form_.gguf && !IsQuantizable(tensor)) kept = DType::kF32;
    if (form_.gguf && kept == DType::kF8E4M3) kept = DType::kBF16;
    return {kept, kept};
  }

  void AddPart(const TensorInfo& kv_b, Part part) {
    Add(PartOf(kv_b, part), part == Part::kKB ? RowMap::kKeysTransposed : RowMap::kValues);
  }

  // `tensor` has its final name and shape.
  void Add(TensorInfo tensor, RowMap map) {
    const FormatChoice choice = FormatOf(tensor);
    if (choice.format != choice.wanted) NoteUnfit(choice, tensor);
    const bool same = map == RowMap::kSame && choice.format == tensor.dtype;
    if (!same) {
      tensor.dtype = choice.format;
      tensor.data = {.file = -1, .offset = 0, .bytes = DataBytes(tensor.dtype, tensor.elements())};
      tensor.has_scale = false;
      tensor.scale = {};
    }
    tensors_.push_back(std::move(tensor));
    maps_.push_back({from_, same ? RowMap::kUntouched : map});
  }

  void NoteUnfit(const FormatChoice& choice, const TensorInfo& tensor) {
    const auto at = std::ranges::find_if(unfit_, [&](const UnfitFormat& u) {
      return u.wanted == choice.wanted && u.format == choice.format && u.cols == tensor.cols();
    });
    if (at != unfit_.end()) {
      ++at->tensors;
    } else {
      unfit_.push_back({choice.wanted, choice.format, tensor.cols(), 1, tensor.name});
    }
  }

  Model source_;
  const Recipe& recipe_;
  Form form_;
  std::size_t from_ = 0;  // index of the tensor at hand
  std::vector<TensorInfo> tensors_;
  std::vector<QuantizedSource::From> maps_;
  std::vector<UnfitFormat> unfit_;
};

}  // namespace

QuantizedModel Quantized(Model source, const Recipe& recipe) {
  return Builder(std::move(source), recipe, {}).Build();
}

QuantizedModel QuantizedForGguf(Model source, const Recipe& recipe, KvbForm kv_b) {
  return Builder(std::move(source), recipe, {true, kv_b}).Build();
}

std::string Describe(const UnfitFormat& unfit) {
  return fmt::format("{} does not fit rows of {} values: {} tensors are {} (first: {})",
                     Name(unfit.wanted), unfit.cols, unfit.tensors, Name(unfit.format),
                     unfit.first);
}

}  // namespace tandem
