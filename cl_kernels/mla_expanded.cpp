#include "cl_kernels/mla_expanded.h"

#include <algorithm>

#include "cl_kernels/gemm.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/linear.h"

namespace tandem::cl {
namespace {

// As in mla_expanded.cl.
constexpr std::int64_t kMostQuery = 576;
constexpr std::int64_t kMostValue = 512;
constexpr std::int64_t kGroup = 256;
constexpr std::int64_t kGroupRows = 8;
constexpr std::int64_t kBlock = 64;

// As in mla_expanded_mma.cl and mla_heads_mma.cl.
constexpr std::int64_t kMmaHead = 128;
constexpr std::int64_t kMmaRope = 64;
constexpr std::int64_t kMmaRows = 64;
constexpr std::int64_t kMmaTile = 128;
constexpr std::int64_t kMmaItems = 256;

void CheckShape(const MlaExpandedArgs& a) {
  if (a.nope + a.d <= kMostQuery && a.dv <= kMostValue && a.d % 2 == 0) return;
  Throw<OpenClError>(
      "MLA with qk_nope_head_dim {}, qk_rope_head_dim {} and v_head_dim {}: the OpenCL kernels "
      "hold {} of the first two together, the second even, and {} of the third; run attention on "
      "the CPU (--device none)",
      a.nope, a.d, a.dv, kMostQuery, kMostValue);
}

const Weight& KeyWeights(const MlaExpandedArgs& a) {
  return a.w.kv_b.buffer != nullptr ? a.w.kv_b : a.w.k_b;
}

bool TakesMma(Programs& programs, const MlaExpandedArgs& a) {
  const auto decodes = [&](const Weight& w) {
    return w.buffer == nullptr || programs.NvCompute(Program::kMlaHeads, w.dtype) >= 80;
  };
  return a.bf16 && a.kv_type != DType::kF32 && a.nope == kMmaHead && a.dv == kMmaHead &&
         a.d == kMmaRope && a.R % 8 == 0 &&
         programs.NvCompute(Program::kMlaExpanded, DType::kF32) >= 80 && decodes(KeyWeights(a)) &&
         decodes(a.w.v_b);
}

// A run of keys [first, first + count), and the parts of the scratch that it is made in.
struct Run {
  std::int64_t first = 0, count = 0;
  Span rope;
  Span work;  // for the latents in bf16; buffer null: no room
  bool mma = false;
};

// Whole blocks for which the scratch has room.
std::int64_t KeysOfRun(const MlaExpandedArgs& a, bool mma) {
  const std::int64_t floats = a.H * (a.nope + a.dv) / (mma ? 2 : 1);
  const std::int64_t keys =
      std::min(a.expanded_floats / floats, a.latents_floats / MlaLatentFloats(a.R, a.d));
  TANDEM_CHECK(keys >= kBlock);
  return keys / kBlock * kBlock;
}

void LaunchLatents(Programs& programs, const MlaExpandedArgs& a, const Run& run) {
  const cl_kernel kernel = programs.Kernel(Program::kMla, a.kv_type, "mla_latents");
  Arguments(kernel).Set(a.kv, a.tables, static_cast<cl_int>(run.first), static_cast<cl_int>(a.R),
                        static_cast<cl_int>(a.d), a.latents, run.rope, cl_int{run.mma});
  Enqueue(programs, kernel, {1, run.count, 1}, programs.traits().group);
}

// Keys and values in f32.
void Expand(Programs& programs, const MlaExpandedArgs& a, const Run& run) {
  const std::int64_t width = a.nope + a.dv;
  if (a.w.kv_b.buffer != nullptr) {
    return LaunchLinear(programs,
                        {a.latents, a.R, a.w.kv_b, a.expanded, a.H * width, run.count, false});
  }
  HeadLinearArgs linear;
  linear.x = a.latents;
  linear.x_row_stride = a.R;
  linear.w = a.w.k_b;
  linear.head_rows = linear.N = a.R;
  linear.y = a.expanded;
  linear.y_row_stride = a.H * width;
  linear.y_head_stride = width;
  linear.T = run.count;
  linear.heads = a.H;
  linear.transposed = true;
  LaunchHeadLinear(programs, linear);
  linear.w = a.w.v_b;
  linear.head_rows = linear.N = a.dv;
  linear.y.offset += a.nope;
  linear.transposed = false;
  LaunchHeadLinear(programs, linear);
}

// N values of each of H heads in bf16, from value `first` of a key on.
void ExpandMma(Programs& programs, const MlaExpandedArgs& a, const Run& run, const Weight& w,
               std::int64_t H, std::int64_t N, std::int64_t first, bool transposed) {
  const cl_kernel kernel =
      programs.Kernel(Program::kMlaHeads, w.dtype,
                      transposed ? "mla_expand_mma_transposed" : "mla_expand_mma_straight");
  const std::int64_t head_rows = transposed ? a.R : N;
  Arguments(kernel).Set(a.latents, w.buffer, cl_ulong{w.offset}, cl_ulong{w.scale_offset},
                        static_cast<cl_long>(H * head_rows), a.expanded,
                        static_cast<cl_long>(first), static_cast<cl_long>(a.H * (a.nope + a.dv)),
                        static_cast<cl_long>(a.nope + a.dv), static_cast<cl_int>(run.count),
                        static_cast<cl_int>(a.R), static_cast<cl_int>(N),
                        static_cast<cl_int>(head_rows), cl_int{Aligned16(a.latents.offset, a.R)});
  Enqueue(programs, kernel, {CeilDiv(N, kMmaTile), CeilDiv(run.count, kMmaTile), H}, kMmaItems);
}

void ExpandMma(Programs& programs, const MlaExpandedArgs& a, const Run& run) {
  if (a.w.kv_b.buffer != nullptr) {  // rows as a key has its values
    LinearArgs linear{a.latents, a.R,  a.w.kv_b, a.expanded, a.H * (a.nope + a.dv) / 2,
                      run.count, false};
    linear.bf16 = true;
    linear.work = run.work;
    if (LaunchedGemmBf16(programs, linear)) return;
    return ExpandMma(programs, a, run, a.w.kv_b, 1, a.H * (a.nope + a.dv), 0, false);
  }
  ExpandMma(programs, a, run, a.w.k_b, a.H, a.nope, 0, true);
  ExpandMma(programs, a, run, a.w.v_b, a.H, a.dv, a.nope, false);
}

struct Form {
  Program program;
  const char* kernel;
  std::array<std::int64_t, 3> groups;
  std::int64_t items;
};

Form FormOf(Programs& programs, const MlaExpandedArgs& a, bool mma) {
  const Program generic = Program::kMlaExpanded;
  if (!mma) {
    if (programs.traits().attention_items) {
      return {generic, "mla_expanded_item", {a.H, a.T, 1}, 1};
    }
    return {generic, "mla_expanded_group", {a.H, CeilDiv(a.T, kGroupRows), 1}, kGroup};
  }
  const std::int64_t groups = CeilDiv(a.T, kMmaRows) * a.H;
  const Program wgmma = Program::kMlaExpandedWgmma;
  if (programs.NvCompute(wgmma, DType::kF32) == 90) {
    return {wgmma, "mla_expanded_wgmma", {groups, 1, 1}, 2 * kMmaRows};
  }
  return {generic, "mla_expanded_mma", {groups, 1, 1}, 2 * kMmaRows};
}

void Attend(Programs& programs, const MlaExpandedArgs& a, const Run& run) {
  const Form form = FormOf(programs, a, run.mma);
  const cl_kernel kernel = programs.Kernel(form.program, DType::kF32, form.kernel);
  Arguments(kernel).Set(
      a.q, static_cast<cl_long>(a.q_stride), a.cos_sin, a.expanded, run.rope, a.n_keys, a.out,
      static_cast<cl_long>(a.out_stride), a.lse, static_cast<cl_int>(a.T), static_cast<cl_int>(a.H),
      static_cast<cl_int>(a.d), static_cast<cl_int>(a.nope), static_cast<cl_int>(a.dv), a.scale,
      static_cast<cl_int>(run.first), static_cast<cl_int>(run.count));
  Enqueue(programs, kernel, form.groups, form.items);
}

}  // namespace

void PrepareMlaExpanded(Programs& programs) {
  if (!programs.traits().attention_items && programs.traits().nv_compute < 80) return;
  programs.Build(Program::kMlaExpanded, DType::kF32);
  programs.Build(Program::kMlaExpandedWgmma, DType::kF32);
}

bool MlaExpandedPays(Programs& programs, const MlaExpandedArgs& a) {
  if (!TakesMma(programs, a)) return programs.traits().attention_items;
  return 2 * CeilDiv(a.T, kMmaRows) * a.H >= programs.device().info().compute_units;
}

void LaunchMlaExpanded(Programs& programs, const MlaExpandedArgs& a) {
  CheckShape(a);
  if (a.T <= 0 || a.H <= 0) return;
  Run run;
  run.mma = TakesMma(programs, a);
  const std::int64_t most = KeysOfRun(a, run.mma);
  for (; run.first < a.max_keys; run.first += run.count) {
    run.count = std::min(most, a.max_keys - run.first);
    run.rope = {a.latents.buffer, a.latents.offset + most * a.R};
    const std::int64_t used = (most * (a.R + a.d) + 3) / 4 * 4;
    const bool fits = used + GemmWorkFloats(most, a.R) <= a.latents_floats;
    run.work = {fits ? a.latents.buffer : nullptr, a.latents.offset + used};
    LaunchLatents(programs, a, run);
    run.mma ? ExpandMma(programs, a, run) : Expand(programs, a, run);
    Attend(programs, a, run);
  }
}

}  // namespace tandem::cl
