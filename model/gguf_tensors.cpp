#include "model/gguf_tensors.h"

#include <algorithm>
#include <optional>

#include "memory/error.h"
#include "model/gguf_name.h"
#include "model/gguf_type.h"
#include "model/problems.h"

namespace tandem {
namespace {

using Sizes = std::vector<std::int64_t>;

// A size of 1 at the end says nothing.
Sizes Trimmed(Sizes sizes) {
  while (sizes.size() > 1 && sizes.back() == 1) sizes.pop_back();
  return sizes;
}

// Files give the size of a row first.
Sizes Reversed(const Sizes& sizes) { return {sizes.rbegin(), sizes.rend()}; }

std::string Shown(const Sizes& sizes) { return fmt::format("{{{}}}", fmt::join(sizes, ", ")); }

class Matcher {
 public:
  Matcher(const Gguf& gguf, const Config& config) : gguf_(gguf), c_(config) {
    joint_kv_b_.resize(static_cast<std::size_t>(c_.num_hidden_layers), DType::kOther);
  }

  GgufTensors Match() {
    // bf16 is a stand-in: names and shapes are the same for all types.
    const TensorList expected = ExpectedTensors(c_, DType::kBF16);
    for (const TensorInfo& tensor : expected.all()) MatchTensor(tensor);
    ThrowIfAny(gguf_.path(),
               {{"missing tensors", std::move(missing_)},
                {"tensors of the wrong shape", std::move(shapes_)},
                {fmt::format("tensors of a type that cannot be used (matrices load from {}; "
                             "vectors and the router from F32, F16, BF16)",
                             LoadableGgufTypes()),
                 std::move(types_)}});
    AddMtp();
    return {TensorList(std::move(found_)), std::move(joint_kv_b_)};
  }

 private:
  void MatchTensor(const TensorInfo& tensor) {
    if (tensor.role == Role::kRouted) return MatchExpert(tensor);
    if (tensor.part == Part::kKvB) return MatchKvB(tensor);
    const bool tied = tensor.part == Part::kLmHead && c_.tie_word_embeddings;
    MatchWhole(tensor, tied ? "token_embd.weight" : GgufName(tensor), {Reversed(tensor.shape)});
  }

  // The tensor of that name, if it is there with one of these shapes and a type that can be used.
  // Null after the first expert of a layer says nothing more: its problem is listed already.
  const GgufTensor* Check(const TensorInfo& tensor, const std::string& name,
                          const std::vector<Sizes>& shapes) {
    const bool listed = tensor.expert > 0;
    const GgufTensor* found = gguf_.Find(name);
    if (found == nullptr) {
      if (!listed) missing_.push_back(name);
      return nullptr;
    }
    const auto same = [&](const Sizes& s) { return Trimmed(s) == Trimmed(found->ne); };
    const bool shape = std::ranges::any_of(shapes, same);
    const bool type = IsUsable(tensor, *found);
    if (!shape && !listed) {
      shapes_.push_back(
          fmt::format("{}: expected {}, found {}", name, Shown(shapes[0]), Shown(found->ne)));
    }
    if (!type && !listed) types_.push_back(fmt::format("{}: {}", name, found->type_name));
    return shape && type ? found : nullptr;
  }

  static bool IsUsable(const TensorInfo& tensor, const GgufTensor& found) {
    const bool plain = tensor.shape.size() == 1 || tensor.part == Part::kRouterWeight;
    return IsWeightFormat(found.dtype) && !(plain && IsBlockFormat(found.dtype));
  }

  void MatchWhole(TensorInfo tensor, const std::string& name, const std::vector<Sizes>& shapes) {
    const GgufTensor* found = Check(tensor, name, shapes);
    if (found == nullptr) return;
    tensor.name = name;
    tensor.dtype = found->dtype;
    tensor.data = {found->file, found->offset, found->bytes};
    found_.push_back(std::move(tensor));
  }

  // The experts lie one after the other. Newer files may have gate and up of an expert as one
  // matrix, the rows of gate first.
  void MatchExpert(TensorInfo tensor) {
    const std::string joint = fmt::format("blk.{}.ffn_gate_up_exps.weight", tensor.layer);
    const std::string name = GgufName(tensor);
    const bool halves =
        tensor.part != Part::kDown && gguf_.Find(name) == nullptr && gguf_.Find(joint) != nullptr;
    const std::int64_t rows = tensor.rows() * (halves ? 2 : 1);
    const std::string& used = halves ? joint : name;
    const GgufTensor* found = Check(tensor, used, {{tensor.cols(), rows, c_.n_routed_experts}});
    if (found == nullptr) return;
    tensor.name = fmt::format("{}[{}]{}", used, tensor.expert,
                              !halves                    ? ""
                              : tensor.part == Part::kUp ? ".up"
                                                         : ".gate");
    tensor.dtype = found->dtype;
    const std::uint64_t bytes = DataBytes(found->dtype, tensor.elements());
    const auto expert = static_cast<std::uint64_t>(tensor.expert);
    const std::uint64_t index = halves ? 2 * expert + (tensor.part == Part::kUp) : expert;
    tensor.data = {found->file, found->offset + index * bytes, bytes};
    found_.push_back(std::move(tensor));
  }

  // In two tensors, each with a dimension for the heads or without one; or, in old files, in one.
  void MatchKvB(const TensorInfo& tensor) {
    const std::int64_t heads = c_.num_attention_heads;
    const std::int64_t rank = c_.kv_lora_rank;
    const std::int64_t nope = c_.qk_nope_head_dim;
    const std::int64_t v = c_.v_head_dim;
    TensorInfo k_b = tensor;
    k_b.part = Part::kKB;
    k_b.shape = {heads * rank, nope};
    TensorInfo v_b = tensor;
    v_b.part = Part::kVB;
    v_b.shape = {heads * v, rank};
    const std::string joint = GgufName(tensor);
    if (gguf_.Find(GgufName(k_b)) == nullptr && gguf_.Find(joint) != nullptr) {
      return MatchJointKvB(tensor, joint);
    }
    MatchWhole(k_b, GgufName(k_b), {{nope, rank, heads}, {nope, rank * heads}});
    MatchWhole(v_b, GgufName(v_b), {{rank, v, heads}, {rank, v * heads}});
  }

  void MatchJointKvB(const TensorInfo& tensor, const std::string& name) {
    const std::size_t before = found_.size();
    MatchWhole(tensor, name, {Reversed(tensor.shape)});
    if (found_.size() == before || !IsBlockFormat(found_.back().dtype)) return;
    TensorInfo& info = found_.back();
    joint_kv_b_[static_cast<std::size_t>(info.layer)] = info.dtype;
    info.dtype = DType::kF16;
    info.data.bytes = DataBytes(info.dtype, info.elements());
  }

  // The blocks behind the last are for multi-token prediction. They are listed, so that they can be
  // reported, and not loaded: whatever they hold is let through.
  void AddMtp() {
    for (std::int64_t i = 0; i < c_.num_nextn_predict_layers; ++i) {
      const std::int64_t layer = c_.num_hidden_layers + i;
      const std::string prefix = fmt::format("blk.{}.", layer);
      for (const GgufTensor& tensor : gguf_.tensors()) {
        if (tensor.name.starts_with(prefix)) AddMtpTensor(tensor, static_cast<int>(layer));
      }
    }
  }

  void AddMtpTensor(const GgufTensor& found, int layer) {
    TensorInfo tensor;
    tensor.name = found.name;
    tensor.shape = Reversed(found.ne);
    tensor.dtype = found.dtype;
    tensor.role = Role::kMtp;
    tensor.layer = layer;
    tensor.data = {found.file, found.offset, found.bytes};
    found_.push_back(std::move(tensor));
  }

  const Gguf& gguf_;
  const Config& c_;
  std::vector<TensorInfo> found_;
  std::vector<DType> joint_kv_b_;
  std::vector<std::string> missing_, shapes_, types_;
};

}  // namespace

GgufTensors MatchGgufTensors(const Gguf& gguf, const Config& config) {
  return Matcher(gguf, config).Match();
}

}  // namespace tandem
