// value.name and value[index], with Jinja's ways from one to the other.
#pragma once

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

// Methods first, then members of a dict; undefined where there is neither. InvalidArgument for an undefined value.
absl::StatusOr<JinjaValue> GetJinjaAttr(JinjaRuntime& runtime, const JinjaValue& value, absl::string_view name);
// Elements and members first, then what GetJinjaAttr has.
absl::StatusOr<JinjaValue> GetJinjaItem(JinjaRuntime& runtime, const JinjaValue& value, const JinjaValue& index);
// "a.b.0", a name or an index: what filters take as `attribute`. `fallback`, where it is defined, stands for each value
// on the way that is not.
absl::StatusOr<JinjaValue> GetJinjaPath(JinjaRuntime& runtime, const JinjaValue& value, const JinjaValue& path,
                                        const JinjaValue& fallback = {});

}  // namespace tokenferry
