#pragma once

#include <string>

#include "memory/dtype.h"
#include "model/tensor_source.h"
#include "tests/support/gguf_builder.h"

namespace tandem::test {

struct GgufModelOptions {
  // attn_kv_b and the keys of old files, instead of attn_k_b and attn_v_b.
  bool joint_kv_b = false;
  // Of all matrices whose rows are whole blocks of it; vectors and the router are F32, other
  // matrices F32 too.
  DType format = DType::kF32;
};

// What llama.cpp's conversion would make of a model, as its description (architectures section 13)
// has it.
GgufBuilder GgufOf(const Model& model, const GgufModelOptions& options = {});

// The keys of a tokenizer, from the text of tokenizer.json.
void AddGgufTokenizer(GgufBuilder& gguf, const std::string& tokenizer_json, const std::string& pre);

}  // namespace tandem::test
