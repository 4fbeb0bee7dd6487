#include "runtime/text/jinja/lookup.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"

namespace tokenferry {

absl::StatusOr<JinjaValue> GetJinjaAttr(JinjaRuntime& runtime, const JinjaValue& value, absl::string_view name) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  if (value.object() != nullptr) return value.object()->Attribute(name);
  if (const JinjaMethod method = FindJinjaMethod(value, name); method != nullptr) {
    TF_ASSIGN_OR_RETURN(JinjaBoundMethod * bound, runtime.New<JinjaBoundMethod>(value, method));
    return JinjaValue::Object(bound);
  }
  if (value.dict() != nullptr && value.dict()->Find(name) != nullptr) return *value.dict()->Find(name);
  return JinjaValue::Undefined(absl::StrCat("'", value.TypeName(), " object' has no attribute '", name, "'"));
}

absl::StatusOr<JinjaValue> GetJinjaItem(JinjaRuntime& runtime, const JinjaValue& value, const JinjaValue& index) {
  TF_ASSIGN_OR_RETURN(JinjaValue item, JinjaItem(value, index, runtime.budget()));
  if (!item.is_undefined() || index.text() == nullptr) return item;
  return GetJinjaAttr(runtime, value, index.text()->text());
}

absl::StatusOr<JinjaValue> GetJinjaPath(JinjaRuntime& runtime, const JinjaValue& value, const JinjaValue& path,
                                        const JinjaValue& fallback) {
  std::vector<JinjaValue> steps = {path};
  if (path.text() != nullptr) {
    steps.clear();
    for (const absl::string_view part : absl::StrSplit(path.text()->text(), '.')) {
      int64_t index = 0;
      const bool is_index = absl::SimpleAtoi(part, &index);
      steps.push_back(is_index ? JinjaValue::Int(index) : JinjaValue::Text(part, TextOrigin::kModel));
    }
  }
  JinjaValue at = value;
  for (const JinjaValue& step : steps) {
    TF_ASSIGN_OR_RETURN(at, GetJinjaItem(runtime, at, step));
    if (at.is_undefined() && !fallback.is_undefined()) at = fallback;
  }
  return at;
}

}  // namespace tokenferry
