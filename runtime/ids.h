#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Token ids as text: whole numbers with spaces or commas between them, brackets around them or not,
// so that a JSON list serves too. Throws UsageError naming the word that is no id below vocab_size.
std::vector<std::int32_t> ParseIds(std::string_view text, std::int64_t vocab_size);

// Throws UsageError naming the first id outside [0, vocab_size) and its position.
void CheckIds(std::span<const std::int32_t> ids, std::int64_t vocab_size);

// Token ids of a file: the int32 tensor `prompt_ids` of a safetensors file, or a JSON list. Throws
// SystemError if it is absent, CheckpointError if it is damaged, UsageError for an id out of range
// or no ids at all.
std::vector<std::int32_t> ReadIds(const std::string& file, std::int64_t vocab_size);

}  // namespace tandem
