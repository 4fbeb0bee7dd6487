// From the regular expression dialect of tokenizer.json to PCRE2's; see pretokenizer_regex.h.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// Behind every repetition the result has a callout `(?C)`, with which the matcher counts its work.
absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern);

std::string QuoteRegex(absl::string_view literal);

}  // namespace tokenferry
