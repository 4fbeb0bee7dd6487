// Python's operators on template values.
#pragma once

#include "core/status.h"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

// a == b. Numbers, booleans among them, by value; lists and dicts by their elements; objects by identity.
absl::StatusOr<bool> JinjaEqual(const JinjaValue& a, const JinjaValue& b, JinjaBudget& budget);
// a < b of two numbers, texts, or sequences; InvalidArgument for others.
absl::StatusOr<bool> JinjaLess(const JinjaValue& a, const JinjaValue& b, JinjaBudget& budget);
absl::StatusOr<bool> JinjaContains(const JinjaValue& container, const JinjaValue& value, JinjaRuntime& runtime);

absl::StatusOr<bool> JinjaCompare(JinjaOp op, const JinjaValue& a, const JinjaValue& b, JinjaRuntime& runtime);
absl::StatusOr<JinjaValue> JinjaArithmetic(JinjaOp op, const JinjaValue& a, const JinjaValue& b, JinjaRuntime& runtime);
absl::StatusOr<JinjaValue> JinjaNegative(const JinjaValue& value);

// value[index] of lists, texts and dicts; undefined where there is nothing.
absl::StatusOr<JinjaValue> JinjaItem(const JinjaValue& value, const JinjaValue& index, JinjaBudget& budget);
// value[start:stop:step]; undefined and None leave a part out.
absl::StatusOr<JinjaValue> JinjaSlice(const JinjaValue& value, const JinjaValue& start, const JinjaValue& stop,
                                      const JinjaValue& step, JinjaRuntime& runtime);

absl::StatusOr<int64_t> JinjaLength(const JinjaValue& value);  // len()

}  // namespace tokenferry
