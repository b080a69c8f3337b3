#pragma once

#include <cstdint>

#include "runtime/mla_host.h"

namespace tandem {

// One worker's hands in MlaOnHost: works on the heads of its node, in its own scratch.
class MlaTask {
 public:
  MlaTask(const MlaOnHost& mla, int layer, const Worker& w);

  std::int64_t first_head() const { return maps_.first(); }
  std::int64_t heads() const { return maps_.last() - maps_.first(); }

  // A whole ticket: from the roped query to the outputs of some heads.
  void Absorbed(std::int64_t t0, std::int64_t t1, std::int64_t head0, std::int64_t count);
  void Expanded(std::int64_t t0, std::int64_t t1, std::int64_t head);

  // The same in three steps, for all rows of the step.
  void AbsorbAll(std::int64_t head);
  void Attend(const MlaOnHost::Piece& piece);
  void MergeAll(std::int64_t head);

 private:
  // Sums of some queries over some keys.
  struct Part {
    float* out = nullptr;  // [n, R]
    float* maximum = nullptr;
    float* sum = nullptr;
  };

  void Absorb(std::int64_t head, std::int64_t t0, std::int64_t t1, float* y, std::int64_t y_stride);
  void Unabsorb(std::int64_t head, std::int64_t t0, std::int64_t t1, const float* u,
                std::int64_t u_stride);
  // The part of rows [t0, t1) of a run and `count` heads each over keys [first, last).
  void Keys(const float* q, std::int64_t t0, std::int64_t t1, std::int64_t count,
            std::int64_t first, std::int64_t last, const Part& part);
  void AbsorbedRun(std::int64_t t0, std::int64_t t1, std::int64_t tile0, std::int64_t count);
  void Blocks(std::int64_t t, std::int64_t first, std::int64_t last);
  const std::byte* Block(std::int64_t t, std::int64_t block) const;
  Part PartAt(std::int64_t slot) const;
  // sum and out of one query take those of the next range in.
  void Merge(const Part& part, float* maximum, float* sum, float* out) const;
  void Shade(std::int64_t t, std::int64_t head0, std::int64_t count) const;

  // mla_expanded.cpp
  struct Room;
  bool rounds() const { return mla_.attention_ == f_.host.kernels.attention_bf16; }
  HostRows Latents(const Room& room, std::int64_t t, std::int64_t first, std::int64_t last) const;
  void ExpandKeys(const Room& room, std::int64_t t, std::int64_t head, std::int64_t first,
                  std::int64_t last);

  const MlaOnHost& mla_;
  Forward& f_;
  const Config& c_;
  cpu::AttentionArgs args_;
  const cpu::KvLayout layout_;
  const std::byte* store_;
  std::int64_t token_bytes_;
  const void** blocks_ = nullptr;  // of the run at hand
  float* queries_ = nullptr;
  Part sums_, part_;
  std::int32_t* n_keys_ = nullptr;
  float* expanded_ = nullptr;
  const HeadMaps maps_;
};

}  // namespace tandem
