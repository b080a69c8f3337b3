#include "runtime/line_reader.h"

#include <histedit.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <iostream>
#include <utility>

#include "memory/error.h"
#include "runtime/interrupt.h"

namespace tandem {
namespace {

constexpr int kHistoryLines = 500;

struct EndEdit {
  void operator()(EditLine* edit) const noexcept { el_end(edit); }
};
struct EndHistory {
  void operator()(History* history) const noexcept { history_end(history); }
};

class PlainReader final : public LineReader {
 public:
  std::optional<std::string> Read() override {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }
};

class TerminalReader final : public LineReader {
 public:
  explicit TerminalReader(std::string prompt)
      : prompt_(std::move(prompt)),
        history_(history_init()),
        edit_(el_init("tandem", stdin, stdout, stderr)) {
    if (!history_ || !edit_) throw SystemError("the terminal's line editor did not start");
    std::setlocale(LC_CTYPE, "");  // libedit asks it how many columns a character takes
    HistEvent event = {};
    history(history_.get(), &event, H_SETSIZE, kHistoryLines);
    el_set(edit_.get(), EL_CLIENTDATA, this);
    el_set(edit_.get(), EL_PROMPT, &TerminalReader::Prompt);
    el_set(edit_.get(), EL_EDITOR, "emacs");
    el_set(edit_.get(), EL_HIST, history, history_.get());
    el_set(edit_.get(), EL_SIGNAL, 1);  // puts the terminal back before a signal ends us
    el_source(edit_.get(), nullptr);    // the user's ~/.editrc
  }

  std::optional<std::string> Read() override {
    int count = 0;
    const char* line = el_gets(edit_.get(), &count);
    if (Interrupted()) {
      ClearInterrupt();
      std::puts("");
      return std::string();
    }
    if (line == nullptr || count <= 0) {
      std::puts("");  // the shell's prompt begins on a line of its own
      return std::nullopt;
    }
    std::string text(line, static_cast<std::size_t>(count));
    while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
    if (!text.empty()) {
      HistEvent event = {};
      history(history_.get(), &event, H_ENTER, text.c_str());
    }
    return text;
  }

 private:
  static char* Prompt(EditLine* edit) {
    TerminalReader* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return self->prompt_.data();
  }

  std::string prompt_;
  std::unique_ptr<History, EndHistory> history_;
  std::unique_ptr<EditLine, EndEdit> edit_;
};

}  // namespace

std::unique_ptr<LineReader> MakeLineReader(const std::string& prompt) {
  if (isatty(STDIN_FILENO) == 1) return std::make_unique<TerminalReader>(prompt);
  return std::make_unique<PlainReader>();
}

}  // namespace tandem
