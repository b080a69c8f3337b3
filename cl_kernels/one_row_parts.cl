// Products of one row with more columns than local memory holds of x (one_row_walk.cl): work-groups
// share out the spans of columns instead of going through all of them, so that each brings x once
// and has as many times the rows, in fewer tiles that are not full. The last work-group of those
// with the same rows adds up what each of them kept, in the order of the columns.
#if defined(ONE_ROW_MMA)

// Which of `count` parts of the columns a work-group takes, `span` pieces each, and which share of
// the rows. None where number == count.
typedef struct {
  int number, count, span, share, shares;
} part_t;

// All columns and the share of a work-group.
INLINE part_t whole_part(int group, int groups) {
  const part_t p = {0, 1, 0, group, groups};
  return p;
}

// For up to `parts` parts, none of them empty.
INLINE part_t part_of(int pieces, int parts, int group, int groups) {
  part_t p = whole_part(group, groups);
  if (parts <= 1 || groups < parts) return p;
  const int run = 256 / PIECE;
  p.span = (int)((uint)(pieces + parts * run - 1) / (uint)(parts * run)) * run;
  p.count = (int)((uint)(pieces + p.span - 1) / (uint)p.span);
  p.shares = (int)((uint)groups / (uint)p.count);
  p.number = min((int)((uint)group / (uint)p.shares), p.count);
  p.share = group - p.number * p.shares;
  return p;
}

// The pieces of a part, where the job has those of a row.
INLINE void take_part(job_t* j, const part_t* p) {
  if (p->count == 1) return;
  j->span = p->span;
  j->piece0 = p->number * p->span;
  j->pieces = min(j->piece0 + p->span, j->pieces);
}

// Where sums of parts are, of `rows` outputs each: behind the counters of arrivals.
INLINE global float* kept_sums(volatile global int* arrived) {
  return (global float*)arrived + ARRIVALS;
}

INLINE float sum_of_parts(const global float* kept, const part_t* p, int rows, int row) {
  float sum = 0.0f;
  for (int i = 0; i < p->count; ++i) sum += kept[i * rows + row];
  return sum;
}

#endif
