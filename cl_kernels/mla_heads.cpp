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

}  // namespace

void LaunchMlaQuery(Programs& programs, const MlaQueryArgs& a) {
  CheckShape(a.R, a.nope);
  if (a.T <= 0 || a.H <= 0) return;
  const DeviceTraits& traits = programs.traits();
  const bool joined = a.w.kv_b.buffer != nullptr;
  const Weight& w = joined ? a.w.kv_b : a.w.k_b;
  const std::int64_t row_groups = CeilDiv(a.T, kHeadRows);
  const std::int64_t per_group =
      joined ? 8 * traits.team : RowsPerGroup(traits, a.R, row_groups * a.H);
  const cl_kernel kernel = programs.Kernel(Program::kMlaHeads, w.dtype,
                                           joined ? "mla_query_transposed" : "mla_query_straight");
  Arguments(kernel).Set(a.q, a.q_stride, w.buffer, w.offset, w.scale_offset, a.cos_sin, a.y,
                        static_cast<cl_int>(a.T), static_cast<cl_int>(a.H),
                        static_cast<cl_int>(a.R), static_cast<cl_int>(a.d),
                        static_cast<cl_int>(a.nope), static_cast<cl_int>(a.nope + a.dv),
                        static_cast<cl_int>(per_group));
  Enqueue(programs, kernel, {CeilDiv(a.R, per_group) + 1, row_groups, a.H}, traits.group_size());
}

void LaunchMlaOutput(Programs& programs, const MlaOutputArgs& a) {
  CheckShape(a.R, a.nope);
  TANDEM_CHECK(a.splits >= 1 && a.splits <= kMaxSplits);
  if (a.T <= 0 || a.H <= 0) return;
  const DeviceTraits& traits = programs.traits();
  const bool joined = a.w.kv_b.buffer != nullptr;
  const Weight& w = joined ? a.w.kv_b : a.w.v_b;
  const std::int64_t row_groups = CeilDiv(a.T, kHeadRows);
  const std::int64_t per_group = RowsPerGroup(traits, a.dv, row_groups * a.H);
  const cl_kernel kernel = programs.Kernel(Program::kMlaHeads, w.dtype, "mla_output");
  Arguments(kernel).Set(a.parts, a.lse, w.buffer, w.offset, w.scale_offset, a.out, a.out_stride,
                        static_cast<cl_int>(a.T), static_cast<cl_int>(a.H),
                        static_cast<cl_int>(a.R), static_cast<cl_int>(a.dv),
                        static_cast<cl_int>(a.splits),
                        static_cast<cl_int>(joined ? a.nope + a.dv : a.dv),
                        static_cast<cl_int>(joined ? a.nope : 0), static_cast<cl_int>(per_group));
  Enqueue(programs, kernel, {CeilDiv(a.dv, per_group), row_groups, a.H}, traits.group_size());
}

}  // namespace tandem::cl
