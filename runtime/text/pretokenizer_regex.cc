#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/text/pretokenizer_regex.h"

#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/check.h"
#include "runtime/text/pretokenizer_syntax.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr uint32_t kMatchLimit = 10'000'000;  // backtracks of the interpreter, per starting point
constexpr uint32_t kHeapLimitKib = 256 << 10;

struct Budget {
  int64_t steps_left;
  size_t position = 0;
};

// Each callout (one stands behind every repetition) costs the way the matcher came since the last one.
int Charge(pcre2_callout_block* block, void* data) {
  auto* budget = static_cast<Budget*>(data);
  size_t distance = block->current_position > budget->position ? block->current_position - budget->position
                                                               : budget->position - block->current_position;
  budget->position = block->current_position;
  budget->steps_left -= 1 + static_cast<int64_t>(distance);
  return budget->steps_left >= 0 ? 0 : PCRE2_ERROR_CALLOUT;
}

class Matcher {
 public:
  Matcher(const pcre2_code* code, absl::string_view text)
      : code_(code),
        text_(text),
        budget_{(int64_t{1} << 16) + 256 * static_cast<int64_t>(text.size())},
        data_(pcre2_match_data_create(1, nullptr), pcre2_match_data_free),
        context_(pcre2_match_context_create(nullptr), pcre2_match_context_free) {
    TF_CHECK(data_ != nullptr && context_ != nullptr);
    pcre2_set_match_limit(context_.get(), kMatchLimit);
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
    pcre2_set_callout(context_.get(), Charge, &budget_);
  }

  // The first match at or behind `start`.
  bool Find(size_t start, MatchSpan& span) {
    int rc = Match(start, PCRE2_NO_UTF_CHECK);
    // A pattern with repeated groups may need more than JIT's small stack; the interpreter uses the heap.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = Match(start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    if (rc < 0) return false;  // none, or beyond a limit
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
    span = {offsets[0], offsets[1]};
    return true;
  }

 private:
  int Match(size_t start, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), start, options, data_.get(),
                       context_.get());
  }

  const pcre2_code* code_;
  absl::string_view text_;
  Budget budget_;
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data_;
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context_;
};

}  // namespace

absl::StatusOr<SplitRegex> SplitRegex::Compile(absl::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression of ", pattern.size(), " bytes; at most ", kMaxPatternBytes, " are allowed"));
  }
  TF_ASSIGN_OR_RETURN(std::string translated, TranslateRegex(pattern));
  return CompilePcre2(translated);
}

absl::StatusOr<SplitRegex> SplitRegex::Literal(absl::string_view text) {
  if (text.size() > kMaxPatternBytes / 4) {
    return absl::InvalidArgumentError(absl::StrCat("pattern of ", text.size(), " bytes is too long"));
  }
  return CompilePcre2(QuoteRegex(text));
}

absl::StatusOr<SplitRegex> SplitRegex::CompilePcre2(const std::string& pattern) {
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  TF_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get());
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression does not compile: ", reinterpret_cast<const char*>(message)));
  }
  std::shared_ptr<void> owner(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  // Where memory cannot be made executable this fails and pcre2_match interprets: slower, same matches.
  static_cast<void>(pcre2_jit_compile(code, PCRE2_JIT_COMPLETE));
  return SplitRegex(std::move(owner));
}

std::vector<MatchSpan> SplitRegex::FindAll(absl::string_view text) const {
  std::vector<MatchSpan> spans;
  Matcher matcher(static_cast<const pcre2_code*>(code_.get()), text);
  MatchSpan span;
  size_t start = 0;
  while (start <= text.size() && matcher.Find(start, span)) {
    bool empty = span.end <= span.begin;
    bool touches_last = !spans.empty() && spans.back().end == span.end;
    if (!empty) {
      start = span.end;
    } else {
      start = CharacterEnd(text, std::max(span.end, start));
      if (touches_last) continue;
      span.end = span.begin;
    }
    spans.push_back(span);
  }
  return spans;
}

}  // namespace tokenferry
