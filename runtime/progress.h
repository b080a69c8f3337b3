#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

// Takes reports of long work. Update may be called from several threads, often.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // total_bytes 0: work that cannot be counted.
  virtual void Begin(std::string_view what, std::uint64_t total_bytes) = 0;
  virtual void Update(std::uint64_t done_bytes) = 0;
  virtual void End() = 0;
  // True once the user wants to stop (Ctrl-C): the work ends with an Error soon after.
  virtual bool Cancelled() const { return false; }
};

}  // namespace tandem
