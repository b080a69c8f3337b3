#include "cl_kernels/attention.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

// As in attention.cl.
constexpr std::int64_t kMaxDk = 576;
constexpr std::int64_t kMaxDv = 512;
constexpr std::int64_t kGroup = 256;
constexpr std::int64_t kSharedHeads = 8;

struct Shape {
  std::string_view kernel;
  std::int64_t heads;  // of a work-group
  std::int64_t group_size;
};

// Eight heads to a work-group read a shared K and V once, but only if enough work-groups are left
// to fill the device; one row of 128 heads does better with a work-group per head.
Shape ChooseShape(const Programs& programs, const AttentionArgs& a) {
  if (programs.traits().attention_items) return {"attention_item", 1, 1};
  const bool shared = a.k_head_stride == 0 && a.v_head_stride == 0;
  const std::int64_t groups = a.T * CeilDiv(a.heads, kSharedHeads);
  if (shared && groups >= programs.traits().wide_min_groups) {
    return {"attention_group_8", kSharedHeads, kGroup};
  }
  return {"attention_group_1", 1, kGroup};
}

// 8 values at a time are 16 bytes of bf16 and 32 of f32; strides of 8 serve both.
bool KvAligned(const AttentionArgs& a) {
  return a.width % 8 == 0 && a.k_offset % 8 == 0 && a.k_head_stride % 8 == 0;
}

}  // namespace

void LaunchAttention(Programs& programs, const AttentionArgs& a) {
  if (a.dk > kMaxDk || a.dv > kMaxDv) {
    Throw<OpenClError>(
        "attention with heads of {} and {} values: the OpenCL kernel holds {} and {}; "
        "run attention on the CPU (--device none)",
        a.dk, a.dv, kMaxDk, kMaxDv);
  }
  if (a.T <= 0 || a.heads <= 0) return;
  const Shape shape = ChooseShape(programs, a);
  const cl_kernel kernel = programs.Kernel(Program::kKvCache, a.kv_type, shape.kernel);
  Arguments(kernel).Set(a.q, a.q_row_stride, a.q_head_stride, a.kv, a.width, a.k_offset,
                        a.k_head_stride, a.v_offset, a.v_head_stride, cl_int{KvAligned(a)},
                        a.tables, a.table_start, a.n_keys, a.out, a.out_row_stride,
                        a.out_head_stride, static_cast<cl_int>(a.heads), static_cast<cl_int>(a.dk),
                        static_cast<cl_int>(a.dv), a.scale, static_cast<cl_int>(a.share),
                        a.lse.buffer ? a.lse : a.out);
  Enqueue(programs, kernel, {CeilDiv(a.heads, shape.heads), a.T, 1}, shape.group_size);
}

}  // namespace tandem::cl
