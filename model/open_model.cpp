#include "model/open_model.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "memory/error.h"
#include "model/gguf.h"
#include "model/gguf_config.h"
#include "model/gguf_tensors.h"
#include "model/utf8.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxNameBytes = 256;

bool IsPrintable(std::string_view text) {
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  return ValidUtf8Prefix(text) == text.size() && std::ranges::none_of(text, control);
}

// general.name, or the file's own where that is absent or no name.
std::string NameOf(const Gguf& gguf) {
  const std::string_view name = gguf.metadata().String("general.name", "");
  if (!name.empty() && name.size() <= kMaxNameBytes && IsPrintable(name)) return std::string(name);
  return fs::path(gguf.path()).stem().string();
}

Model OpenGguf(const std::string& path) {
  Gguf gguf(path);
  Model model;
  model.name = NameOf(gguf);
  model.path = path;
  model.config = ReadGgufConfig(gguf);
  GgufTensors tensors = MatchGgufTensors(gguf, model.config);
  model.tensors = std::move(tensors.list);
  model.warnings.assign(gguf.warnings().begin(), gguf.warnings().end());
  model.source = std::make_shared<const GgufSource>(gguf.TakeFiles(), model.config,
                                                    std::move(tensors.joint_kv_b));
  return model;
}

// A folder with GGUF files and no config.json: which of them is meant is for the user to say.
void CheckNoGgufInstead(const fs::path& dir) {
  std::error_code error;
  if (!fs::is_directory(dir, error) || fs::exists(dir / "config.json", error)) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    if (entry.path().extension() != ".gguf") continue;
    throw SystemError(fmt::format("{}: has no config.json; to open GGUF, name the file: {}",
                                  dir.string(), entry.path().string()),
                      ExitCode::kMissingFile);
  }
}

}  // namespace

Model OpenModel(const std::string& path) {
  if (IsModelFile(path)) return OpenGguf(path);
  CheckNoGgufInstead(path);
  return OpenCheckpoint(path);
}

Config ReadModelConfig(const std::string& path) {
  if (IsModelFile(path)) return ReadGgufConfig(Gguf(path));
  CheckNoGgufInstead(path);
  return ReadConfig(path);
}

}  // namespace tandem
