// The filters behind `|`.
#pragma once

#include "absl/strings/string_view.h"
#include "runtime/text/jinja/methods.h"

namespace tokenferry {

// Null: there is none. A filter is called with the value and the arguments in its brackets.
JinjaMethod FindJinjaFilter(absl::string_view name);
inline bool IsJinjaFilter(absl::string_view name) { return FindJinjaFilter(name) != nullptr; }

// Parts of that list; each may be asked alone.
JinjaMethod FindTextFilter(absl::string_view name);
JinjaMethod FindListFilter(absl::string_view name);
JinjaMethod FindSelectFilter(absl::string_view name);

}  // namespace tokenferry
