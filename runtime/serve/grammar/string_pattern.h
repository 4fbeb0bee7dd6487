// Strings that match a regular expression, as pieces of an automaton.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/serve/grammar/automaton_builder.h"

namespace tokenferry {

// In characters, which are code points; no `most`: any number from `least` on.
struct StringLength {
  int64_t least = 0;
  std::optional<int64_t> most;
};

// Appends a JSON string, quotes included, of which a part matches, or all of it between ^ and $; its characters are
// spelled as code_points.h says. ^ and $ may stand at the two ends of an alternative only. InvalidArgument as
// ParseRegex has it, and for patterns that need more than kMaxAutomatonStates.
absl::StatusOr<AutomatonBuilder::Node> AppendMatchingString(AutomatonBuilder::Node at, absl::string_view pattern,
                                                            const StringLength& length, AutomatonBuilder& builder);

// Of a schema's `format`: date, time, date-time and duration of RFC 3339 (any month may have 31 days, any minute a leap
// second), uuid of RFC 4122, email (RFC 5321's dot-atom at a name of several labels), hostname of RFC 1123, ipv4, ipv6
// (RFC 4291 without an IPv4 address at its end). Empty: the format is an annotation.
std::string PatternOfFormat(absl::string_view format);

}  // namespace tokenferry
