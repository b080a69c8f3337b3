#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/tensor_list.h"

namespace tandem {

// A format for the tensors whose name matches, in some layers.
struct FormatRule {
  std::string pattern;  // over the name in a GGUF file, "blk.*.ffn_down_exps"; '*' and '?' as usual
  int first_layer = 0;
  int last_layer = 1 << 20;  // both count; tensors outside of layers match whatever these say
  DType format = DType::kF32;
};

// Which format each matrix of a model gets. Vectors and the router are never quantised.
// The last rule that matches counts, then the format of the role, then the mix; a tensor that none
// of them knows keeps its format.
struct Recipe {
  std::string mix;  // one of MixNames(), or empty
  std::array<std::optional<DType>, kNumRoles> by_role;
  std::vector<FormatRule> rules;

  bool empty() const;
};

// What a recipe says of one tensor: the format asked for, and the one that its rows fit
// (FittingFormat, model/quantize.h).
struct FormatChoice {
  DType wanted;
  DType format;
};

// Whether recipes apply to a tensor: matrices but the router's, and not those of MTP layers.
bool IsQuantizable(const TensorInfo& tensor);

// nullopt: the tensor stays as it is. `layers` is the model's count.
std::optional<FormatChoice> ChooseFormat(const Recipe& recipe, const TensorInfo& tensor,
                                         std::int64_t layers);

// The formats that can be asked for, in lower case: "f32", ..., "iq4_xs".
std::vector<std::string> FormatNames();
// One of them in any case. Throws ConfigError naming `where` and all of them.
DType ParseFormat(std::string_view name, const std::string& where);

// The mixes of formats that llama.cpp's users know ("q4_k_m", ...), and "f32", "bf16", "q8_0" and
// so on, which are one format for everything.
std::vector<std::string_view> MixNames();
// Throws ConfigError naming `where` and the nearest mixes.
void CheckMix(std::string_view mix, const std::string& where);
// The format that a mix gives to a quantisable tensor.
DType MixFormat(std::string_view mix, const TensorInfo& tensor, std::int64_t layers);
// The number that stands for the mix in `general.file_type` of a GGUF file; nullopt where there is
// none.
std::optional<std::uint32_t> GgufFileType(std::string_view mix);

// Whether the whole text matches a pattern of characters, '?' (any one) and '*' (any number).
bool MatchesGlob(std::string_view pattern, std::string_view text);

}  // namespace tandem
