// The router's scores of a step's only row, the choice made of them and its lists, in one launch:
// the work-group of linear_one (one_row.cl) that is the last to have written its scores goes on as
// router_one_row (router.cl), in the local memory that x had. For matrices in f32, bf16 and f16.
//
//   linear_one_routed   as linear_one; arrived: an int that is 0 before and after
#if NV_COMPUTE >= 70 && WTYPE <= WTYPE_F16

kernel __attribute__((reqd_work_group_size(TEAM * TEAMS, 1, 1))) void linear_one_routed(
    const global float* x, const global uchar* w_buffer, const global uchar* w2_buffer,
    global float* y, global float* y2, const global float* norm_w, global float* norm_out,
    linear_t a, global int* arrived, ROUTER_ARGS, LIST_ARGS) {
  ONE_ROOM(part);
  local int last;
  linear_one_part(x, w_buffer, w2_buffer, y, y2, norm_w, norm_out, a, part, (int)get_group_id(0),
                  (int)get_num_groups(0));
  if (!is_last_group(arrived, (int)get_num_groups(0), &last)) return;
  const rule_t rule = ROUTER_RULE;
  local room_t* const room = (local room_t*)part.pool;
  route(logits + logits_offset, has_bias ? bias + bias_offset : 0, rule, ids + ids_offset,
        weights + weights_offset, room);
  list_one_row(room, E, K, LIST_PASS);
}

#endif  // NV_COMPUTE
