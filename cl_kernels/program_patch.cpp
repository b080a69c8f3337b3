#include "cl_kernels/program_patch.h"

#include "memory/error.h"

namespace tandem::cl {
namespace {

constexpr std::string_view kTarget = ".target sm_90";
constexpr std::string_view kMark = "//PTX ";

}  // namespace

std::string WithHiddenPtx(std::string_view ptx) {
  // The driver counts the text's final zero among its bytes.
  std::string text(ptx.substr(0, ptx.find('\0')));
  const std::size_t target = text.find(kTarget);
  const std::size_t end = target + kTarget.size();
  if (target == std::string::npos || end >= text.size() || text.find(kMark) == std::string::npos) {
    Throw<OpenClError>(
        "a program's binary of {} bytes is not the PTX expected: no '{}' or no '{}' in it; run "
        "with a driver whose binaries are PTX",
        ptx.size(), kTarget, kMark);
  }
  if (text[end] != 'a') text.insert(end, 1, 'a');
  for (std::size_t at = text.find(kMark); at != std::string::npos; at = text.find(kMark, at)) {
    text.erase(at, kMark.size());
  }
  return text;
}

}  // namespace tandem::cl
