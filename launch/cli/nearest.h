// The valid word that a mistyped one most likely meant.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace tokenferry {

// Insertions, deletions, substitutions and swaps of two neighbouring bytes, each counted once (optimal string
// alignment).
int EditDistance(absl::string_view a, absl::string_view b);

// The candidate with the smallest edit distance to `word`, the first of equals; a candidate that `word` begins counts
// as one edit away. Empty when none is near enough to be what was meant: a wrong hint is worse than none.
std::string Nearest(absl::string_view word, absl::Span<const std::string> candidates);

}  // namespace tokenferry
