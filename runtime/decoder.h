#pragma once

#include <cstdint>
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

 private:
  void Embed();
  std::span<const float> Head();
  void NormOnHost();
  void NormOnDevice(std::int64_t wanted);
  void Logits(std::int64_t first, std::int64_t n);
  void ObserveHidden(int index, const float* host);

  Forward& f_;
  Attention attention_;
  FeedForward feed_forward_;
  std::span<std::int32_t> wanted_;  // rows that want logits
  std::span<float> logits_;         // [logit_rows_, V]
  cl::Span dlogits_;
  std::int64_t logit_rows_;
};

}  // namespace tandem
