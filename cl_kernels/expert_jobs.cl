// The experts of experts.cl for jobs that the host listed, one expert with its pairs each:
//   experts_jobs_gate_up   global (blocks of F * TEAM * TEAMS, max_pairs, jobs)
//   experts_jobs_down      global (blocks of D * TEAM * TEAMS, max_pairs, jobs)
//                          local  (TEAM * TEAMS, 1, 1)
// A job is an entry_t whose last two words are its first pair and the number of pairs.
INLINE tile_t tile_of_job(entry_t job, int F) {
  tile_t tile;
  tile.e = job;
  tile.pair0 = job.slab;
  tile.pairs = job.F;
  tile.e.F = F;
  return tile;
}

kernel __attribute__((reqd_work_group_size(TEAM* TEAMS, 1, 1))) void experts_jobs_gate_up(
    const global uchar* weights, const global entry_t* jobs, const global int* pair_row,
    const global float* pair_weight, const global float* x, global float* act, experts_t a) {
  local float4 pool[POOL];
  local float totals[TOTALS(1)];
  local float scratch[SCRATCH(1)];
  const tile_t tile = tile_of_job(jobs[a.table_offset + get_group_id(2)], (int)a.F);
  const int part = (int)get_group_id(1);
  const long first = (long)get_group_id(0) * (TEAMS / (int)a.ksplit * (WROWS / 2));
  if (part >= tile.pairs) return;
  gate_up_block(&a, weights, tile, part, first, pair_row, pair_weight, x, act, pool, totals,
                scratch, 0, 1);
}

kernel __attribute__((reqd_work_group_size(TEAM* TEAMS, 1, 1))) void experts_jobs_down(
    const global uchar* weights, const global entry_t* jobs, const global float* act,
    global float* out, experts_t a) {
  local float4 pool[POOL];
  local float totals[TOTALS(1)];
  local float scratch[SCRATCH(1)];
  const tile_t tile = tile_of_job(jobs[a.table_offset + get_group_id(2)], (int)a.F);
  const int part = (int)get_group_id(1);
  const long first = (long)get_group_id(0) * (TEAMS / (int)a.ksplit * WROWS);
  if (part >= tile.pairs) return;
  down_block(&a, weights, tile, part, first, act, out, pool, totals, scratch, 1);
}
