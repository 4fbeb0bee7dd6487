// The tests behind `is`.
#pragma once

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

using JinjaTest = absl::StatusOr<bool> (*)(JinjaRuntime& runtime, const JinjaValue& value,
                                           const JinjaArguments& arguments);

JinjaTest FindJinjaTest(absl::string_view name);  // null: there is none
inline bool IsJinjaTest(absl::string_view name) { return FindJinjaTest(name) != nullptr; }

}  // namespace tokenferry
