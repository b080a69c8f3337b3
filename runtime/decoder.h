#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/forward.h"

namespace tandem {

// One step through all layers. Read this first.
class Decoder {
 public:
  explicit Decoder(Forward& f);

  // f.batch is filled. Returns logits [rows that want them, V], valid until the next call.
  std::span<const float> Step();

 private:
  void Embed();
  std::span<const float> Head();
  void HeadOnHost(std::int64_t wanted);
  void HeadOnDevice(std::int64_t wanted);
  void ObserveHidden(int index, const float* host);

  Forward& f_;
  Attention attention_;
  FeedForward feed_forward_;
  std::vector<std::int32_t> wanted_;  // rows that want logits
  HostActivation normed_;             // [T, D]
  HostBuffer logits_;                 // [wanted, V], grows
  cl::Span dnormed_, dlogits_;
  std::int64_t logit_rows_ = 1;  // of dlogits_
};

}  // namespace tandem
