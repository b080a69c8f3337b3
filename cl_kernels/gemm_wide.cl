// gemm_linear (gemm.cl) in tiles of 256 x 128 for weights in bf16 and x in panels: fewer reads of
// both operands, where there are tiles enough for every multiprocessor. A program of its own,
// because its work-items need twice the registers that the others may have.
#if NV_COMPUTE >= 80

#define WIDE_TILE(name) name##_4x8

kernel __attribute__((reqd_work_group_size(GEMM_ITEMS, 1, 1))) void gemm_linear_wide(LINEAR_ARGS) {
  LINEAR_GROUP(8);
  LINEAR_TILE(WIDE_TILE);
}

#endif  // NV_COMPUTE
