#include "cl_kernels/mla.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

// As in the .cl files.
constexpr std::int64_t kMaxR = 512;
constexpr std::int64_t kMaxD = 64;
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kGroup = 256;
constexpr std::int64_t kGroupHeads = 8;

// What a run of keys should have at least: below, writing and merging the parts costs more than
// the run.
constexpr std::int64_t kRunBlocks = 2;

void CheckShape(std::int64_t R, std::int64_t d, DType kv_type) {
  if (R > kMaxR || d > kMaxD || d % 2 != 0) {
    Throw<OpenClError>(
        "MLA with kv_lora_rank {} and qk_rope_head_dim {}: the OpenCL kernels hold {} and an even "
        "number up to {}; run attention on the CPU (--device none)",
        R, d, kMaxR, kMaxD);
  }
  if (kv_type == DType::kF8E4M3 && R % kFp8Block != 0) {
    Throw<OpenClError>(
        "a KV cache in {} with kv_lora_rank {}: its scales serve {} values each; choose another "
        "type for the cache",
        Name(kv_type), R, kFp8Block);
  }
}

struct Form {
  Program program;
  std::string_view kernel;
  std::int64_t group_size;
  std::array<std::int64_t, 2> groups;  // the third dimension is the splits
};

// mla_mma.cl
constexpr std::int64_t kMmaR = 512;
constexpr std::int64_t kMmaD = 64;
constexpr std::int64_t kManySlots = 1024;  // from here on, work-groups of 64 fill a device

bool TakesMma(Programs& programs, const MlaAttentionArgs& a) {
  const int needed = a.kv_type == DType::kF8E4M3 ? 89 : 80;
  return a.bf16 && a.kv_type != DType::kF32 && a.R == kMmaR && a.d == kMmaD &&
         programs.NvCompute(Program::kMla, a.kv_type) >= needed;
}

Form ChooseForm(Programs& programs, const MlaAttentionArgs& a) {
  const DeviceTraits& traits = programs.traits();
  if (TakesMma(programs, a)) {
    const std::int64_t slots = a.T * a.H;
    const bool wide = a.H % 64 == 0 || slots >= kManySlots;
    if (!wide) return {Program::kMla, "mla_mma_16", 128, {CeilDiv(slots, 16), 1}};
    // mla_wgmma.cl reads queries in fours.
    if (a.q.offset % 4 == 0 && programs.NvCompute(Program::kMlaWgmma, a.kv_type) == 90) {
      return {Program::kMlaWgmma, "mla_wgmma_64", 256, {CeilDiv(slots, 64), 1}};
    }
    return {Program::kMla, "mla_mma_64", 256, {CeilDiv(slots, 64), 1}};
  }
  if (traits.attention_items) return {Program::kMla, "mla_attention_item", 1, {a.H, a.T}};
  return {Program::kMla, "mla_attention_group", kGroup, {CeilDiv(a.H, kGroupHeads), a.T}};
}

// Keys of a run, the same for every row: whole blocks.
std::int64_t RunOf(const MlaAttentionArgs& a) {
  return CeilDiv(CeilDiv(a.max_keys, kBlock), a.splits) * kBlock;
}

}  // namespace

std::int64_t MlaSplits(std::int64_t T, std::int64_t H, std::int64_t max_keys,
                       std::int64_t compute_units) {
  if (T <= 0 || H <= 0) return 1;
  // A work-group of 64 heads and rows has a compute unit to itself; those of fewer share it.
  const bool wide = H % 64 == 0 || T * H >= kManySlots;
  const std::int64_t wanted =
      wide ? compute_units / CeilDiv(T * H, 64) : 3 * compute_units / CeilDiv(T * H, 16);
  const std::int64_t by_keys = CeilDiv(max_keys, kRunBlocks * kBlock);
  const std::int64_t by_memory = 1 + kMlaParts / (T * H);
  return std::clamp<std::int64_t>(std::min({wanted, by_keys, by_memory}), 1, kMostMlaSplits);
}

void LaunchMlaAppend(Programs& programs, const MlaAppendArgs& a) {
  CheckShape(a.R, a.d, a.kv_type);
  if (a.T <= 0) return;
  const cl_kernel kernel = programs.Kernel(Program::kMla, a.kv_type, "mla_append");
  Arguments(kernel).Set(a.z, a.z_stride, a.norm_w, a.cos_sin, a.kv, a.slots,
                        static_cast<cl_int>(a.R), static_cast<cl_int>(a.d), a.eps);
  Enqueue(programs, kernel, {1, a.T, 1}, programs.traits().group);
}

void LaunchMlaAttention(Programs& programs, const MlaAttentionArgs& a) {
  CheckShape(a.R, a.d, a.kv_type);
  if (a.T <= 0 || a.H <= 0) return;
  const Form form = ChooseForm(programs, a);
  const cl_kernel kernel = programs.Kernel(form.program, a.kv_type, form.kernel);
  Arguments(kernel).Set(
      a.q, a.kv, a.tables, a.table_start, a.n_keys, a.parts, a.lse, static_cast<cl_int>(a.T),
      static_cast<cl_int>(a.H), static_cast<cl_int>(a.R), static_cast<cl_int>(a.d), a.scale,
      static_cast<cl_int>(RunOf(a)), static_cast<cl_int>(std::max(a.splits, a.row_splits)));
  Enqueue(programs, kernel, {form.groups[0], form.groups[1], a.splits}, form.group_size);
}

}  // namespace tandem::cl
