#pragma once

#include <memory>
#include <optional>
#include <string>

namespace tandem {

// Lines that a person or a pipe gives.
class LineReader {
 public:
  virtual ~LineReader() = default;
  // The next line without its end; nullopt at the end of input (Ctrl-D). Ctrl-C at the terminal
  // gives up the line and returns an empty one.
  virtual std::optional<std::string> Read() = 0;
};

// With editing and history (libedit) if standard input is a terminal, plain lines otherwise.
std::unique_ptr<LineReader> MakeLineReader(const std::string& prompt);

}  // namespace tandem
