// Python's two ways to fill texts in: "%s and %d" % values, and "{} and {name}".format(..).
#pragma once

#include "core/status.h"
#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

// %s %r %d %i %f %.2f %%, without widths. `values`: a tuple, or one value.
absl::StatusOr<JinjaValue> FormatPercent(const TaggedText& format, const JinjaValue& values, JinjaRuntime& runtime);

// {} {0} {name} {{ }}, without conversions and formats.
absl::StatusOr<JinjaValue> FormatBraces(const TaggedText& format, const JinjaArguments& values, JinjaRuntime& runtime);

}  // namespace tokenferry
