#pragma once

#include <cstdint>

namespace tandem {

// The shape of MLA in DeepSeek-V2 and V3, that its kernels are measured in.
inline constexpr std::int64_t kMlaLatent = 512;  // kv_lora_rank
inline constexpr std::int64_t kMlaRope = 64;
inline constexpr std::int64_t kMlaWidth = kMlaLatent + kMlaRope;  // of a token in the cache
inline constexpr std::int64_t kMlaNope = 128;
inline constexpr std::int64_t kMlaHeadOut = 128;
inline constexpr std::int64_t kMlaHeadRows = kMlaNope + kMlaHeadOut;  // of kv_b
inline constexpr std::int64_t kMlaQuery = kMlaNope + kMlaRope;        // of a head

}  // namespace tandem
