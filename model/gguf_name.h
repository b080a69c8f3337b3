#pragma once

#include <string>

#include "model/tensor_list.h"

namespace tandem {

// The name that a tensor has in a GGUF file: "blk.3.attn_output.weight". All experts of a layer are
// one tensor there, and share "blk.3.ffn_gate_exps.weight". Not for tensors of MTP layers.
std::string GgufName(const TensorInfo& tensor);

}  // namespace tandem
