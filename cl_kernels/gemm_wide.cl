// gemm_linear (gemm.cl) in tiles of 128 x 256 for weights in bf16: fewer reads of both operands, where
// there are tiles enough for every multiprocessor. A program of its own, because its work-items need
// twice the registers that the others may have.
#if NV_COMPUTE >= 80

kernel __attribute__((reqd_work_group_size(GEMM_ITEMS, 1, 1))) void gemm_linear_wide(LINEAR_ARGS) {
  LINEAR_GROUP(8);
  LINEAR_TILE(4, 8);
}

#endif  // NV_COMPUTE
