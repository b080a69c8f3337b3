#include "memory/error.h"

namespace tandem {

void CheckFailed(const char* file, int line, const char* condition) {
  throw Error(ExitCode::kInternal,
              fmt::format("internal error at {}:{}: '{}' does not hold; please report this", file,
                          line, condition));
}

}  // namespace tandem
