#pragma once

#include <string>
#include <vector>

namespace tandem {

// Problems of one kind: "missing tensors (3): a, b, c".
struct Problems {
  std::string what;
  std::vector<std::string> items;
};

// Throws one CheckpointError that names all of them (of long lists the first and how many more), or
// nothing if there are none. `where` names the file or folder.
void ThrowIfAny(const std::string& where, const std::vector<Problems>& all);

}  // namespace tandem
