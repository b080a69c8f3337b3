#pragma once

#include <cstdint>
#include <vector>

#include "cpu_kernels/attention.h"
#include "cpu_kernels/kv_rows.h"
#include "placement/attention_scratch.h"
#include "runtime/forward.h"
#include "runtime/head_maps.h"

namespace tandem {

// How a layer's KV rows lie in memory.
cpu::KvLayout LayoutOfKv(const Config& c, DType type);

// MLA on the host: which rows take which form, and their tickets. Rows of one sequence at
// consecutive positions share its keys: many of them in the expanded form where the run may round
// (DeepSeek-V2 section 2.1.2, K and V made of the latent), else all in the absorbed form, where one
// cached vector of R + d_r values serves all heads.
class MlaOnHost {
 public:
  MlaOnHost(Forward& f, const HostActivation& q, const HostActivation& out);
  std::int64_t worker_floats() const { return sizes_.worker(); }
  void Run(int layer);

 private:
  friend class MlaTask;

  // Rows [t0, t1) of one ticket; those of a run where `expanded`, else any.
  struct Tile {
    std::int64_t t0 = 0;
    std::int64_t t1 = 0;
    bool expanded = false;
  };
  // Rows [t0, t1) of one run and one range of their keys; the parts of a head lie from `slot` on.
  struct Piece {
    std::int64_t t0 = 0;
    std::int64_t t1 = 0;
    std::int64_t first_key = 0;
    std::int64_t last_key = 0;
    std::int64_t slot = 0;
  };

  std::int64_t RunEnd(std::int64_t t0, std::int64_t limit) const;
  std::int64_t SharedRangesEnd(std::int64_t t0, std::int64_t limit) const;
  void CutRows();
  bool CutRanges();  // few rows: into pieces; false if they take too many slots
  void RunTiles(int layer);
  void RunPieces(int layer);

  Forward& f_;
  const Config& c_;
  const HostActivation& q_;
  const HostActivation& out_;
  const AttentionScratch sizes_;
  void (*const attention_)(const cpu::AttentionArgs&);
  const bool may_expand_;
  std::span<float> absorbed_, parts_, states_;
  std::vector<Tile> tiles_;
  std::vector<Piece> pieces_;
  std::int64_t slots_ = 0;  // in use
};

}  // namespace tandem
