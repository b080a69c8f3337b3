#include <algorithm>

#include "cl_kernels/launch.h"
#include "cl_kernels/mla.h"

namespace tandem::cl {
namespace {

// As in mla_one_row.cl.
constexpr std::int64_t kR = 512;
constexpr std::int64_t kD = 64;
constexpr std::int64_t kHead = 128;
constexpr std::int64_t kItems = 256;

// Fewer keys than this do not keep a work-group's warps busy.
constexpr std::int64_t kLeastKeys = 8;

struct RowWords {
  cl_long q_offset, z_offset, norm_offset, cos_sin_offset;
  cl_long slots_offset, tables_offset, table_start_offset, n_keys_offset;
  cl_ulong w_offset, scale_offset;
  cl_long parts_offset, lse_offset, out_offset;
  cl_int H, append;
  cl_float scale, eps;
};
static_assert(sizeof(RowWords) == 15 * 8);

bool HasForm(DType weights) {
  return weights == DType::kF8E4M3 || weights == DType::kBF16 || weights == DType::kF16;
}

std::int64_t SplitsOf(const Programs& programs, std::int64_t H, std::int64_t keys) {
  const std::int64_t units = programs.device().info().compute_units;
  return std::clamp<std::int64_t>(std::min(units / H, keys / kLeastKeys), 1, kMlaOneRowSplits);
}

bool Takes(Programs& programs, const MlaQueryArgs& q, const MlaAttentionArgs& a,
           const MlaOutputArgs& o) {
  const DeviceTraits& traits = programs.traits();
  const Weight& w = q.w.kv_b;
  const bool shape = q.T == 1 && q.R == kR && q.d == kD && q.nope == kHead && q.dv == kHead &&
                     q.H > 0 && q.H <= Programs::kArrivals && o.splits == a.splits;
  const bool types = w.buffer != nullptr && w.next == nullptr && HasForm(w.dtype) &&
                     (a.kv_type == DType::kF16 || a.kv_type == DType::kBF16) && a.bf16;
  const bool batch = a.tables.buffer == a.n_keys.buffer &&
                     a.table_start.buffer == a.n_keys.buffer &&
                     (q.append == nullptr || q.append->slots.buffer == a.n_keys.buffer);
  return traits.mla_one_row_keys > 0 && shape && types && batch && a.max_keys > 0 &&
         CeilDiv(a.max_keys, SplitsOf(programs, q.H, a.max_keys)) <= traits.mla_one_row_keys &&
         (traits.nv_compute == 0 || programs.NvCompute(Program::kMlaOneRow, w.dtype) >= 70);
}

}  // namespace

void PrepareMlaOneRow(Programs& programs, DType weights) {
  if (programs.traits().mla_one_row_keys == 0 || !HasForm(weights)) return;
  programs.Build(Program::kMlaOneRow, weights);
}

bool LaunchedMlaOneRow(Programs& programs, const MlaQueryArgs& q, const MlaAttentionArgs& a,
                       const MlaOutputArgs& o) {
  if (!Takes(programs, q, a, o)) return false;
  const std::int64_t splits = SplitsOf(programs, q.H, a.max_keys);
  const Weight& w = q.w.kv_b;
  RowWords words = {};
  words.q_offset = q.q.offset;
  words.cos_sin_offset = q.cos_sin.offset;
  words.tables_offset = a.tables.offset;
  words.table_start_offset = a.table_start.offset;
  words.n_keys_offset = a.n_keys.offset;
  words.w_offset = w.offset;
  words.scale_offset = w.scale_offset;
  words.parts_offset = a.parts.offset;
  words.lse_offset = a.lse.offset;
  words.out_offset = o.out.offset;
  words.H = static_cast<cl_int>(q.H);
  words.scale = a.scale;
  cl_mem z = q.q.buffer;  // any buffers where nothing is appended
  cl_mem norm = q.q.buffer;
  if (q.append != nullptr) {
    z = q.append->z.buffer;
    norm = q.append->norm_w.buffer;
    words.append = 1;
    words.z_offset = q.append->z.offset;
    words.norm_offset = q.append->norm_w.offset;
    words.slots_offset = q.append->slots.offset;
    words.eps = q.append->eps;
  }
  const cl_kernel kernel =
      programs.Kernel(Program::kMlaOneRow, w.dtype,
                      a.kv_type == DType::kF16 ? "mla_one_row_f16" : "mla_one_row_bf16");
  Arguments(kernel).Set(q.q.buffer, z, norm, q.cos_sin.buffer, a.n_keys.buffer, a.kv, w.buffer,
                        a.parts.buffer, a.lse.buffer, o.out.buffer, programs.Arrivals(), words);
  Enqueue(programs, kernel, {splits, q.H, 1}, kItems);
  return true;
}

}  // namespace tandem::cl
