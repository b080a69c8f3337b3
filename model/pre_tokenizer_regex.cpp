#include "model/pre_tokenizer_regex.h"

#include <algorithm>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "memory/error.h"

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;

// Generous: DeepSeek's patterns need about 0.1 us per byte.
constexpr std::chrono::seconds kTimeBase{20};
constexpr std::chrono::microseconds kTimePerByte{10};
// PCRE2 counts steps anew for each place where a match may begin, so that its own limit does not
// hold quadratic patterns. Hence the search goes in windows, with a look at the clock between them.
constexpr std::size_t kWindowBytes = 4096;
constexpr std::uint32_t kStepsBase = 1'000'000;
constexpr std::size_t kStepsPerByte = 8;
constexpr std::size_t kJitStackBytes = std::size_t{1} << 23;
constexpr std::uint32_t kHeapKib = 1u << 18;
constexpr unsigned kCallsPerLook = 64;

pcre2_code* Code(void* code) { return static_cast<pcre2_code*>(code); }

std::string MessageOf(int error) {
  unsigned char text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <class T>
T* Checked(T* pointer) {
  if (pointer == nullptr) throw SystemError("PCRE2 got no memory for a regular expression");
  return pointer;
}

struct PcreFree {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

}  // namespace

struct RegexScratch::Parts {
  std::unique_ptr<pcre2_match_data, PcreFree> data{Checked(pcre2_match_data_create(1, nullptr))};
  std::unique_ptr<pcre2_match_context, PcreFree> context{
      Checked(pcre2_match_context_create(nullptr))};
  // nullptr where there is no JIT.
  std::unique_ptr<pcre2_jit_stack, PcreFree> stack{
      pcre2_jit_stack_create(std::size_t{1} << 15, kJitStackBytes, nullptr)};
  Clock::time_point deadline;
  unsigned calls = 0;
};

RegexScratch::RegexScratch(std::size_t text_bytes) : parts_(std::make_unique<Parts>()) {
  const std::size_t steps = kStepsBase + kStepsPerByte * text_bytes;
  pcre2_match_context* context = parts_->context.get();
  pcre2_set_match_limit(context,
                        static_cast<std::uint32_t>(std::min<std::size_t>(steps, UINT32_MAX)));
  pcre2_set_heap_limit(context, kHeapKib);
  pcre2_jit_stack_assign(context, nullptr, parts_->stack.get());
  parts_->deadline = Clock::now() + kTimeBase + kTimePerByte * text_bytes;
}

RegexScratch::~RegexScratch() = default;

Regex::Regex(const std::string& pattern, const std::string& where) : where_(where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_ = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C,
      &error, &offset, nullptr);
  if (code_ == nullptr) {
    Throw<CheckpointError>("{}: regular expression: {}", where_, MessageOf(error));
  }
  // Only for speed. Where the system allows no JIT, the interpreter gives the same matches.
  pcre2_jit_compile(Code(code_), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() { pcre2_code_free(Code(code_)); }

Regex::Regex(Regex&& other) noexcept
    : code_(std::exchange(other.code_, nullptr)), where_(std::move(other.where_)) {}

int Regex::MatchWindow(std::string_view text, std::size_t from, std::uint32_t options,
                       RegexScratch& scratch) const {
  pcre2_set_offset_limit(scratch.parts_->context.get(), from + kWindowBytes);
  return pcre2_match(Code(code_), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                     options | PCRE2_NO_UTF_CHECK, scratch.parts_->data.get(),
                     scratch.parts_->context.get());
}

void Regex::CheckTime(std::string_view text, RegexScratch& scratch) const {
  if (Clock::now() < scratch.parts_->deadline) return;
  Throw<CheckpointError>(
      "{}: the regular expression takes too long on a text of {} bytes; it backtracks too much",
      where_, text.size());
}

std::optional<Regex::Match> Regex::Find(std::string_view text, std::size_t from,
                                        RegexScratch& scratch) const {
  if (++scratch.parts_->calls % kCallsPerLook == 0) CheckTime(text, scratch);
  while (true) {
    int found = MatchWindow(text, from, 0, scratch);
    // The interpreter keeps its state on the heap, where there is more room.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = MatchWindow(text, from, PCRE2_NO_JIT, scratch);
    if (found >= 0) break;
    if (found != PCRE2_ERROR_NOMATCH) {
      Throw<CheckpointError>("{}: regular expression on a text of {} bytes: {}", where_,
                             text.size(), MessageOf(found));
    }
    if (text.size() - from <= kWindowBytes) return std::nullopt;
    from += kWindowBytes + 1;
    while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
    CheckTime(text, scratch);
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.parts_->data.get());
  return Match{range[0], range[1]};
}

}  // namespace tandem
