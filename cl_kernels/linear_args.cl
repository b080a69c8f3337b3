// The arguments that linear.cl and linear_batch.cl share.

// As LinearWords in linear.cpp: one argument instead of thirty, each of which costs the host time.
typedef struct {
  long x_offset, x_stride, x_head_stride, x_aligned;
  long w_offset, w_side, w_rows, w2_offset, w2_side, w2_rows;
  long K, head_rows, row0, N, N2;
  long y_offset, y_stride, y_head_stride, y2_offset, y2_stride;
  long norm_offset, norm_out_offset, norm_out_stride;
  long T, accumulate, swiglu, norm, ksplit;
  float eps, reserved;
} linear_t;

INLINE void put(global float* y, float value, int accumulate) {
  *y = accumulate ? *y + value : value;
}
