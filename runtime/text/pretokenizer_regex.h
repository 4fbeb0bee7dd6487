// The regular expressions of tokenizer.json (written for Oniguruma, Ruby syntax, as huggingface/tokenizers uses it),
// run by PCRE2.
//
// Differences of the two are translated or refused: `\s` is exactly Unicode's White_Space (PCRE2's has U+180E too), `^`
// and `$` are line anchors, `\u1234` is a code point, `\p{Han}` is a script without what it shares with others, and
// `[A&&[^B]]` an intersection of classes; other nested classes, POSIX brackets, `\w`, `\b`,
// `\h`, back references, inline flags other than `(?i:..)` and PCRE2's own verbs are refused by name. Categories are
// those of PCRE2's Unicode version (14 in Debian 12): characters assigned later may split differently.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

struct MatchSpan {
  size_t begin, end;  // bytes
};

// Immutable; may be used from any thread.
class SplitRegex {
 public:
  static absl::StatusOr<SplitRegex> Compile(absl::string_view pattern);
  static absl::StatusOr<SplitRegex> Literal(absl::string_view text);  // matches `text` itself

  // All matches from left to right, as Rust's find_iter: none overlap; an empty one is not reported directly behind the
  // one before. `text` is valid UTF-8. Work is bounded: 256 steps per byte and 65536 more, where a step is one
  // character taken or given back by a repetition; also PCRE2's match and heap limits. Beyond them matching stops, and
  // what follows the last match counts as not matching (an Encode cannot fail, and no sensible text comes near).
  std::vector<MatchSpan> FindAll(absl::string_view text) const;

 private:
  explicit SplitRegex(std::shared_ptr<void> code) : code_(std::move(code)) {}
  static absl::StatusOr<SplitRegex> CompilePcre2(const std::string& pattern);
  std::shared_ptr<void> code_;  // pcre2_code_8
};

}  // namespace tokenferry
