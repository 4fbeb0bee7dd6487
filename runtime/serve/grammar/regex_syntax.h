// Regular expressions as JSON schemas have them: the part of ECMA-262's that is regular.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/serve/grammar/code_points.h"

namespace tokenferry {

struct Regex {
  enum class Kind : uint8_t { kCharacter, kSequence, kAlternatives, kRepeat, kTextBegin, kTextEnd };
  Kind kind = Kind::kSequence;
  CodePointSet characters;   // kCharacter: one of them
  std::vector<Regex> parts;  // kRepeat: one
  int least = 0, most = 0;   // kRepeat; most -1: any number
};

inline constexpr int kMaxRegexDepth = 64, kMaxRegexCount = 10'000;

// `pattern` is valid UTF-8. Known: characters, `.`, classes, \d \w \s and their opposites, escapes of characters (\n,
// \t, \xHH, \uHHHH, \u{H..}, ..), groups (named ones too), |, ? * + {m} {m,} {m,n}, each lazy too, ^ and $.
// InvalidArgument names what is not: lookaround, backreferences, \b, \p, flags, and what is no regular expression.
absl::StatusOr<Regex> ParseRegex(absl::string_view pattern);

}  // namespace tokenferry
