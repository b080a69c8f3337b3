#include "placement/profile_check.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <vector>

#include "memory/error.h"
#include "placement/resources.h"

namespace tandem {
namespace {

constexpr std::int64_t kMostWidth = 1024;  // cpu_kernels/kv_rows.h

void CheckRange(const Profile& profile, const char* key, std::int64_t value, std::int64_t most) {
  if (value >= 1 && value <= most) return;
  Throw<ConfigError>("{}: '{}': expected 1 to {}, found {}", ProfileName(profile), key, most,
                     value);
}

struct NamedSide {
  const char* key;
  Side Profile::*side;
};
constexpr std::array<NamedSide, 5> kSides{{{"attention", &Profile::attention},
                                           {"dense", &Profile::dense},
                                           {"router", &Profile::router},
                                           {"shared_experts", &Profile::shared_experts},
                                           {"head", &Profile::head}}};

bool DemandsExperts(const Profile& profile) {
  return (profile.experts == Profile::Experts::kShare && profile.experts_share > 0) ||
         (profile.experts == Profile::Experts::kBytes && profile.experts_bytes > 0);
}

// The key of the first role that must be on a device; null if none.
const char* FirstDemand(const Profile& profile) {
  for (const NamedSide& role : kSides) {
    if (profile.*role.side == Side::kDevice) return role.key;
  }
  if (DemandsExperts(profile)) return "routed_experts";
  return profile.expert_cache_bytes ? "expert_cache" : nullptr;
}

void CheckOrder(const Profile& profile, const Config& config) {
  std::vector<bool> seen(static_cast<std::size_t>(config.n_routed_experts));
  for (int id : profile.experts_order) {
    if (id < 0 || id >= config.n_routed_experts) {
      Throw<ConfigError>("{}: 'placement.experts_order': expert {}, the model has {} a layer",
                         ProfileName(profile), id, config.n_routed_experts);
    }
    if (seen[static_cast<std::size_t>(id)]) {
      Throw<ConfigError>("{}: 'placement.experts_order': expert {} is named twice",
                         ProfileName(profile), id);
    }
    seen[static_cast<std::size_t>(id)] = true;
  }
}

void CheckLayers(const Profile& profile, const Config& config) {
  if (!profile.device_layers) return;
  const auto [first, last] = *profile.device_layers;
  if (first >= 0 && first <= last && last < config.num_hidden_layers) return;
  Throw<ConfigError>("{}: 'placement.layers': [{}, {}], the model has layers 0 to {}",
                     ProfileName(profile), first, last, config.num_hidden_layers - 1);
}

void RefuseKvType(const Profile& profile, const char* why) {
  Throw<ConfigError>("{}: 'kv.type': {} needs {}; use f16, bf16 or f32", ProfileName(profile),
                     *profile.kv_type == DType::kQ8_0 ? "q8_0" : "f8", why);
}

void CheckKvType(const Profile& profile, const Config& config) {
  const DType type = profile.kv_type.value_or(DType::kF32);
  if (type == DType::kF32 || type == DType::kBF16 || type == DType::kF16) return;
  if (type != DType::kQ8_0 && type != DType::kF8E4M3) {
    Throw<ConfigError>("{}: 'kv.type': expected f32, bf16, f16, q8_0 or f8, found {}",
                       ProfileName(profile), Name(type));
  }
  if (config.attention == AttentionKind::kMha) RefuseKvType(profile, "a model with MLA");
  if (type == DType::kQ8_0 && (config.kv_width() % 32 != 0 || config.kv_width() > kMostWidth)) {
    RefuseKvType(profile, "a latent and roped key of whole blocks of 32 values, at most 1024");
  }
  if (type == DType::kF8E4M3 &&
      (config.kv_lora_rank % kFp8Block != 0 || config.kv_width() > kMostWidth)) {
    RefuseKvType(profile, "a kv_lora_rank in whole blocks of 128 values, at most 1024 in all");
  }
}

}  // namespace

void CheckProfile(const Profile& profile, const Config& config) {
  CheckRange(profile, "workload.context", profile.context, ProfileLimits::kContext);
  CheckRange(profile, "workload.sequences", profile.max_sequences, ProfileLimits::kSequences);
  CheckRange(profile, "workload.chunk", profile.chunk.value_or(1), ProfileLimits::kChunk);
  if (!(profile.experts_share >= 0 && profile.experts_share <= 1)) {
    Throw<ConfigError>("{}: 'placement.routed_experts.share': expected 0 to 1, found {}",
                       ProfileName(profile), profile.experts_share);
  }
  CheckKvType(profile, config);
  CheckOrder(profile, config);
  CheckLayers(profile, config);
}

bool WantsDevice(const Profile& profile) {
  for (const NamedSide& role : kSides) {
    // A router that is left to the planner follows attention.
    const bool follows = role.side == &Profile::router && profile.router == Side::kAuto;
    if (!follows && profile.*role.side != Side::kHost) return true;
  }
  return profile.experts == Profile::Experts::kAuto || DemandsExperts(profile);
}

void CheckNothingDemanded(const Profile& profile, const Machine& machine) {
  const char* key = FirstDemand(profile);
  if (!key) return;
  if (profile.device == "none") {
    Throw<ConfigError>("{}: 'placement.{}' asks for a device, and the device is 'none': change one",
                       ProfileName(profile), key);
  }
  Throw<OpenClError>("{}: 'placement.{}' asks for a device; {}", ProfileName(profile), key,
                     FoundDevices(machine));
}

DType KvType(const Profile& profile, Precision precision) {
  return profile.kv_type.value_or(precision == Precision::kExact ? DType::kF32 : DType::kF16);
}

}  // namespace tandem
