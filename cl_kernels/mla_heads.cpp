#include <algorithm>

#include "cl_kernels/launch.h"
#include "cl_kernels/mla.h"

namespace tandem::cl {
namespace {

// As in mla_heads.cl.
constexpr std::int64_t kMaxR = 512;
constexpr std::int64_t kMaxSplits = 512;
constexpr std::int64_t kHeadRows = 4;
constexpr std::int64_t kHeadWeightRows = 4;

void CheckShape(std::int64_t R, std::int64_t nope) {
  if (R <= kMaxR && nope <= kMaxR) return;
  Throw<OpenClError>(
      "MLA with kv_lora_rank {} and qk_nope_head_dim {}: the OpenCL kernels hold {} of each; run "
      "attention on the CPU (--device none)",
      R, nope, kMaxR);
}

// Weight rows of one work-group: a head's N, cut while the work-groups do not fill the device. The
// pieces are what the teams take at a time.
std::int64_t RowsPerGroup(const DeviceTraits& traits, std::int64_t N, std::int64_t groups) {
  const std::int64_t least = traits.teams * kHeadWeightRows;
  const std::int64_t pieces =
      std::max<std::int64_t>(1, std::min(CeilDiv(N, least), traits.wide_min_groups / groups));
  return CeilDiv(CeilDiv(N, least), pieces) * least;
}

// As in mla_heads_mma.cl.
constexpr std::int64_t kMmaTile = 128;
constexpr std::int64_t kMmaItems = 256;
constexpr std::int64_t kMmaSplits = 8;
// Fewer rows than this are quicker without matrix units.
constexpr std::int64_t kMmaMinRows = 32;

bool UsesMma(Programs& programs, DType type, bool bf16, std::int64_t T, std::int64_t R,
             std::int64_t other) {
  return bf16 && T >= kMmaMinRows && R % 8 == 0 && other % 8 == 0 &&
         programs.NvCompute(Program::kMlaHeads, type) >= 80;
}

struct QueryForm {
  const char* kernel;
  cl_int last;           // per_group, or whether rows lie on 16 bytes
  std::int64_t columns;  // of a work-group
  std::int64_t row_tiles;
  std::int64_t items;
  bool mma;
};

// QUERY_COLUMNS of mla_heads.cl.
std::int64_t QueryColumns(const DeviceTraits& traits) {
  return traits.team >= 8 ? 64 : traits.team * 8;
}

// append_t of mla_heads.cl.
struct AppendWords {
  cl_long z_offset = 0, z_stride = 0, norm_offset = 0, slots_offset = 0;
  cl_int on = 0, kv_type = 0;
  cl_float eps = 0;
  cl_int unused = 0;
};

AppendWords WordsOf(const MlaAppendArgs& a) {
  return {a.z.offset,     a.z_stride, a.norm_w.offset,
          a.slots.offset, 1,          static_cast<cl_int>(a.kv_type),
          a.eps,          0};
}

void SetAppend(Arguments& arguments, const MlaQueryArgs& a) {
  if (a.append == nullptr) {  // any buffers
    arguments.Set(a.q.buffer, a.q.buffer, a.y.buffer, a.q.buffer, AppendWords{});
    return;
  }
  const MlaAppendArgs& append = *a.append;
  TANDEM_CHECK(append.T == a.T && append.R == a.R && append.d == a.d);
  arguments.Set(append.z.buffer, append.norm_w.buffer, append.kv, append.slots.buffer,
                WordsOf(append));
}

QueryForm FormOf(Programs& programs, DType type, const MlaQueryArgs& a) {
  const DeviceTraits& traits = programs.traits();
  const bool joined = a.w.kv_b.buffer != nullptr;
  if (UsesMma(programs, type, a.bf16, a.T, a.R, a.nope)) {
    const bool aligned = Aligned16(a.q.offset, a.q_stride) && (a.nope + a.d) % 4 == 0;
    return {joined ? "mla_query_mma_transposed" : "mla_query_mma_straight",
            cl_int{aligned},
            kMmaTile,
            CeilDiv(a.T, kMmaTile),
            kMmaItems,
            true};
  }
  const std::int64_t row_groups = CeilDiv(a.T, kHeadRows);
  const std::int64_t per_group =
      joined ? QueryColumns(traits) : RowsPerGroup(traits, a.R, row_groups * a.H);
  return {joined ? "mla_query_transposed" : "mla_query_straight",
          static_cast<cl_int>(per_group),
          per_group,
          row_groups,
          traits.group_size(),
          false};
}

}  // namespace

void LaunchMlaQuery(Programs& programs, const MlaQueryArgs& a) {
  CheckShape(a.R, a.nope);
  if (a.T <= 0 || a.H <= 0) return;
  const Weight& w = a.w.kv_b.buffer != nullptr ? a.w.kv_b : a.w.k_b;
  TANDEM_CHECK(w.next == nullptr);
  const QueryForm form = FormOf(programs, w.dtype, a);
  if (a.append != nullptr && form.mma) LaunchMlaAppend(programs, *a.append);
  const cl_kernel kernel = programs.Kernel(Program::kMlaHeads, w.dtype, form.kernel);
  Arguments arguments(kernel);
  arguments.Set(a.q, a.q_stride, w.buffer, w.offset, w.scale_offset, a.cos_sin, a.y,
                static_cast<cl_int>(a.T), static_cast<cl_int>(a.H), static_cast<cl_int>(a.R),
                static_cast<cl_int>(a.d), static_cast<cl_int>(a.nope),
                static_cast<cl_int>(a.nope + a.dv), form.last);
  std::int64_t columns = CeilDiv(a.R, form.columns) + 1;
  if (!form.mma) {
    SetAppend(arguments, a);
    columns += a.append != nullptr;
  }
  Enqueue(programs, kernel, {columns, form.row_tiles, a.H}, form.items);
}

void LaunchMlaOutput(Programs& programs, const MlaOutputArgs& a) {
  CheckShape(a.R, a.nope);
  TANDEM_CHECK(a.splits >= 1 && a.splits <= kMaxSplits);
  if (a.T <= 0 || a.H <= 0) return;
  const DeviceTraits& traits = programs.traits();
  const bool joined = a.w.kv_b.buffer != nullptr;
  const Weight& w = joined ? a.w.kv_b : a.w.v_b;
  TANDEM_CHECK(w.next == nullptr);
  const bool mma = a.splits <= kMmaSplits && UsesMma(programs, w.dtype, a.bf16, a.T, a.R, a.dv);
  const std::int64_t row_tiles = CeilDiv(a.T, mma ? kMmaTile : kHeadRows);
  const std::int64_t columns = mma ? kMmaTile : RowsPerGroup(traits, a.dv, row_tiles * a.H);
  const std::int64_t last = mma ? a.parts.offset % 4 == 0 && a.R % 4 == 0 : columns;
  const cl_kernel kernel =
      programs.Kernel(Program::kMlaHeads, w.dtype, mma ? "mla_output_mma" : "mla_output");
  Arguments(kernel).Set(a.parts, a.lse, w.buffer, w.offset, w.scale_offset, a.out, a.out_stride,
                        static_cast<cl_int>(a.T), static_cast<cl_int>(a.H),
                        static_cast<cl_int>(a.R), static_cast<cl_int>(a.dv),
                        static_cast<cl_int>(a.splits),
                        static_cast<cl_int>(joined ? a.nope + a.dv : a.dv),
                        static_cast<cl_int>(joined ? a.nope : 0), static_cast<cl_int>(last));
  Enqueue(programs, kernel, {CeilDiv(a.dv, columns), row_tiles, a.H},
          mma ? kMmaItems : traits.group_size());
}

}  // namespace tandem::cl
