#include "model/gguf_name.h"

#include <fmt/format.h>

#include <string_view>

#include "memory/error.h"

namespace tandem {
namespace {

std::string_view MlpSuffix(Role role) {
  if (role == Role::kShared) return "_shexp";
  return role == Role::kRouted ? "_exps" : "";
}

// The part's name within its layer, without what the role adds to it.
std::string_view Stem(Part part) {
  switch (part) {
    case Part::kInputNorm:
      return "attn_norm";
    case Part::kPostNorm:
      return "ffn_norm";
    case Part::kQ:
      return "attn_q";
    case Part::kQA:
      return "attn_q_a";
    case Part::kQANorm:
      return "attn_q_a_norm";
    case Part::kQB:
      return "attn_q_b";
    case Part::kKvA:
      return "attn_kv_a_mqa";
    case Part::kKvANorm:
      return "attn_kv_a_norm";
    case Part::kKvB:
      return "attn_kv_b";
    case Part::kKB:
      return "attn_k_b";
    case Part::kVB:
      return "attn_v_b";
    case Part::kK:
      return "attn_k";
    case Part::kV:
      return "attn_v";
    case Part::kO:
      return "attn_output";
    case Part::kGate:
      return "ffn_gate";
    case Part::kUp:
      return "ffn_up";
    case Part::kDown:
      return "ffn_down";
    case Part::kRouterWeight:
      return "ffn_gate_inp";
    default:
      TANDEM_CHECK(part == Part::kRouterBias);
      return "exp_probs_b";
  }
}

}  // namespace

std::string GgufName(const TensorInfo& tensor) {
  if (tensor.part == Part::kEmbed) return "token_embd.weight";
  if (tensor.part == Part::kFinalNorm) return "output_norm.weight";
  if (tensor.part == Part::kLmHead) return "output.weight";
  const bool mlp = tensor.part >= Part::kGate && tensor.part <= Part::kDown;
  return fmt::format("blk.{}.{}{}.{}", tensor.layer, Stem(tensor.part),
                     mlp ? MlpSuffix(tensor.role) : "",
                     tensor.part == Part::kRouterBias ? "bias" : "weight");
}

}  // namespace tandem
