#include "runtime/prompt.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "memory/error.h"
#include "memory/file.h"
#include "model/gguf.h"

namespace tandem {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;

// Any kind of file serves as a prompt, a pipe too: `--prompt-file <(command)`.
struct Input {
  explicit Input(const std::string& name)
      : fd(name == "-" ? STDIN_FILENO : open(name.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Input() {
    if (fd > STDIN_FILENO) close(fd);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;
  int fd;
};

[[noreturn]] void ThrowErrno(const std::string& name, int error) {
  const bool absent = error == ENOENT || error == ENOTDIR;
  throw SystemError(fmt::format("{}: {}", name, std::strerror(error)),
                    absent ? ExitCode::kMissingFile : ExitCode::kIo);
}

}  // namespace

std::vector<std::int32_t> EncodePrompt(std::string_view text, const Config& config,
                                       const Tokenizer& tokenizer, bool add_bos) {
  std::vector<std::int32_t> ids = tokenizer.Encode(text, Tokenizer::Special::kParse);
  const auto bos = config.bos_token_id;
  if (add_bos && bos && (ids.empty() || ids.front() != *bos)) ids.insert(ids.begin(), *bos);
  return ids;
}

bool ReadAddBos(const std::string& model_path) {
  if (IsModelFile(model_path)) {
    return Gguf(model_path).metadata().Bool("tokenizer.ggml.add_bos_token", true);
  }
  const std::string file = (std::filesystem::path(model_path) / "tokenizer_config.json").string();
  if (!std::filesystem::exists(file)) return true;
  const auto json = nlohmann::json::parse(ReadWholeFile(std::filesystem::path(file), kMaxTextBytes),
                                          nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) Throw<CheckpointError>("{}: expected a JSON object", file);
  const auto field = json.find("add_bos_token");
  if (field == json.end() || field->is_null()) return true;
  if (!field->is_boolean()) {
    Throw<CheckpointError>("{}: add_bos_token: expected true or false, found {}", file,
                           field->dump());
  }
  return field->get<bool>();
}

std::string ReadText(const std::string& file) {
  const std::string name = file == "-" ? "standard input" : file;
  const Input in(file);
  if (in.fd < 0) ThrowErrno(name, errno);
  std::string text;
  std::string piece(std::size_t{64} << 10, '\0');
  for (;;) {
    const ssize_t got = read(in.fd, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) ThrowErrno(name, errno);
    if (got == 0) return text;
    text.append(piece, 0, static_cast<std::size_t>(got));
    if (text.size() > kMaxTextBytes) {
      throw SystemError(
          fmt::format("{}: longer than the {} MiB that a text may have", name, kMaxTextBytes >> 20),
          ExitCode::kIo);
    }
  }
}

}  // namespace tandem
