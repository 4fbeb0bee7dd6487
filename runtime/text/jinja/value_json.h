// JSON to template values.
#pragma once

#include "absl/strings/string_view.h"
#include "core/io/json.h"
#include "core/status.h"
#include "runtime/text/jinja/value.h"

namespace tokenferry {

// Keeps the order of keys. All texts, keys too, are TextOrigin::kMessage. Checked by core/io/json.h, with its errors
// and limits; integers beyond 64 bits are read as floating point.
absl::StatusOr<JinjaValue> ParseJinjaJson(absl::string_view json, absl::string_view name,
                                          const JsonLimits& limits = {});
// The same of a text that JsonDocument::Parse has taken already, within whatever limits.
JinjaValue JinjaFromJson(absl::string_view json);

}  // namespace tokenferry
