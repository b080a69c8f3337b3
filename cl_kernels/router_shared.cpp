#include "cl_kernels/router_shared.h"

#include <algorithm>

#include "cl_kernels/experts.h"
#include "cl_kernels/launch.h"
#include "cl_kernels/linear_words.h"
#include "cl_kernels/matmul.h"
#include "cl_kernels/router.h"

namespace tandem::cl {
namespace {

// As in router_shared.cl.
constexpr std::int64_t kScoreRows = 4;
constexpr std::int64_t kMostEntries = 257;

// As routed_t.
struct RoutedWords {
  cl_ulong w_offset;
  cl_long scores_offset, bias_offset, ids_offset, weights_offset;
  cl_long tiles_offset, n_tiles_offset, pair_row_offset, pair_weight_offset, token_pairs_offset;
  cl_long table_offset, chosen_offset;
  cl_int type, groups, has_bias, reserved;
  RouterRule rule;
};
static_assert(sizeof(RoutedWords) == 18 * 8);

RoutedWords WordsOf(const LinearArgs& scores, const RouterArgs& a, const GroupArgs& g,
                    const ExpertsArgs& experts) {
  RoutedWords words = {};
  words.w_offset = scores.w.offset;
  words.scores_offset = scores.y.offset;
  words.bias_offset = a.bias.offset;
  words.ids_offset = a.ids.offset;
  words.weights_offset = a.weights.offset;
  words.tiles_offset = g.tiles.offset;
  words.n_tiles_offset = g.n_tiles.offset;
  words.pair_row_offset = g.pair_row.offset;
  words.pair_weight_offset = g.pair_weight.offset;
  words.token_pairs_offset = g.token_pairs.offset;
  words.table_offset = g.table.offset;
  words.chosen_offset = experts.pair_out.offset;
  words.type = static_cast<cl_int>(scores.w.dtype);
  words.groups = static_cast<cl_int>(CeilDiv(a.E, kScoreRows));
  words.has_bias = a.bias.buffer == nullptr ? 0 : 1;
  words.rule = RuleOf(a);
  return words;
}

bool TakesScores(const LinearArgs& a) {
  const DType type = a.w.dtype;
  const bool plain = type == DType::kF32 || type == DType::kBF16 || type == DType::kF16;
  return a.T == 1 && plain && a.w.rows < kMostEntries && a.w.next == nullptr &&
         a.w2.buffer == nullptr && !a.accumulate && a.w.offset % 16 == 0 && a.x.offset % 4 == 0 &&
         a.norm.w.buffer != nullptr && a.norm.w.offset % 4 == 0;
}

bool TakesShared(Programs& programs, const ExpertsArgs& a, const Weight& gate, const Weight& up) {
  const bool bytes = gate.dtype == DType::kF8E4M3 || gate.dtype == DType::kQ8_0;
  return bytes && gate.dtype == a.gate_up && up.dtype == a.gate_up && gate.buffer == up.buffer &&
         gate.cols <= kOneRowMmaSpan && a.pair_out.buffer != nullptr &&
         a.pair_out.offset % 2 == 0 && a.table.offset % 2 == 0 && TakesOneRowMma(programs, a) &&
         TakesOneRowMma(programs, gate.dtype, gate.cols, gate.offset | gate.scale_offset) &&
         TakesOneRowMma(programs, up.dtype, up.cols, up.offset | up.scale_offset);
}

LinearArgs SharedAct(const LinearArgs& scores, const RouterArgs& a, const ExpertsArgs& experts,
                     const Weight& gate, const Weight& up) {
  LinearArgs shared;
  shared.x = scores.x;
  shared.x_stride = scores.x_stride;
  shared.w = gate;
  shared.w2 = up;
  shared.swiglu = true;
  // The shared expert's is the pair behind the chosen ones'.
  shared.y = {experts.act.buffer, experts.act.offset + a.K * experts.F};
  shared.T = 1;
  shared.norm = scores.norm;
  return shared;
}

}  // namespace

bool LaunchedRouterAndShared(Programs& programs, const LinearArgs& scores, const RouterArgs& a,
                             const GroupArgs& g, const ExpertsArgs& experts, const Weight& gate,
                             const Weight& up) {
  CheckLists(a, g);
  TANDEM_CHECK(g.shared && scores.w.rows == a.E && gate.rows <= experts.F);
  const cl_mem lists = g.tiles.buffer;
  const bool one = g.n_tiles.buffer == lists && g.pair_row.buffer == lists &&
                   g.pair_weight.buffer == lists && g.token_pairs.buffer == lists;
  if (!programs.traits().shared_beside_choice) return false;
  if (!one || !TakesScores(scores) || !TakesShared(programs, experts, gate, up)) return false;
  // A work-group fills a compute unit: on a small device few would be left for act.
  const std::int64_t units = programs.device().info().compute_units;
  const std::int64_t rest = units - CeilDiv(a.E, kScoreRows);
  if (2 * rest < units) return false;
  const LinearArgs shared = SharedAct(scores, a, experts, gate, up);
  const RoutedWords words = WordsOf(scores, a, g, experts);
  const cl_kernel kernel =
      programs.Kernel(Program::kOneRowMma, gate.dtype, "linear_one_routed_shared");
  Arguments(kernel).Set(shared.x.buffer, shared.norm.w.buffer, shared.norm.out.buffer, gate.buffer,
                        shared.y.buffer, WordsOf(shared), scores.w.buffer, scores.y.buffer,
                        words.has_bias != 0 ? a.bias.buffer : scores.y.buffer, a.ids.buffer,
                        a.weights.buffer, lists, g.table.buffer, experts.pair_out.buffer,
                        programs.Arrivals(), words);
  const std::int64_t groups = std::min(CeilDiv(gate.rows, 8), rest);
  Enqueue(programs, kernel, {words.groups + groups, 1, 1}, kOneRowMmaItems);
  return true;
}

}  // namespace tandem::cl
