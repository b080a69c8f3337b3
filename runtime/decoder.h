#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/forward.h"

namespace tandem {

// One step through all layers. Read this first.
class Decoder {
 public:
  explicit Decoder(Forward& f);

  // f.batch is filled. Returns logits [rows that want them, V], valid until the next call; none if
  // f.sink took them.
  std::span<const float> Step();
  // The same of a step through f.feed, in parts. Begin enqueues the first layers, behind a kernel
  // that waits for the rows; Feed embeds them, before or after. Finish runs the rest, calls
  // `meanwhile`, which may begin the next step, where ids are to come, and waits for the result.
  void Begin();
  void Feed();
  std::span<const float> Finish(const std::function<void()>& meanwhile);
  // f.greedy: the ids that the last step chose, valid until the next.
  std::span<const std::int32_t> greedy() const { return greedy_.first(chosen_); }

 private:
  void Restart();
  void RunLayers(std::size_t end);  // from those that have run on
  void Start();                     // the next layer that has not begun
  void Enqueue();                   // what the device does for the next layer after its choice
  bool StaysOnDevice(int layer) const;
  void EnqueueHead();  // of a fed step, once
  void Embed(float* x);
  std::int64_t CollectWanted();
  bool FusesNorm(std::int64_t wanted) const;
  std::span<const float> Head();
  std::span<const float> Result(std::int64_t wanted);
  void NormOnHost();
  void NormOnDevice(std::int64_t wanted);
  void Logits(std::int64_t first, std::int64_t n, bool norm);
  void EnqueueLogits(std::int64_t first, std::int64_t n, bool norm);
  void ReadLogits(std::int64_t n);
  void ObserveHidden(int index, const float* host);

  Forward& f_;
  Attention attention_;
  FeedForward feed_forward_;
  std::int32_t Choose(std::int64_t row);

  int layer_ = 0;    // layers of this step that have run
  int started_ = 0;  // that have begun
  int enqueued_ = 0;
  std::int64_t fed_wanted_ = 0;     // rows of a fed step whose logits are still to be enqueued
  std::span<std::int32_t> wanted_;  // rows that want logits
  std::span<std::int32_t> greedy_;
  std::size_t chosen_ = 0;
  std::span<cl::ArgmaxPart> parts_;
  cl::Span dparts_;
  std::span<float> logits_;  // [logit_rows_, V]
  cl::Span dlogits_;
  std::int64_t logit_rows_;
};

}  // namespace tandem
