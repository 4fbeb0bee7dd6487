#include "runtime/text/jinja/runtime.h"

#include <algorithm>
#include <limits>

#include "runtime/text/jinja/python_text.h"

namespace tokenferry {

absl::StatusOr<std::vector<JinjaValue>> JinjaArguments::Bind(absl::string_view callee,
                                                             const std::vector<absl::string_view>& names,
                                                             size_t num_required) const {
  if (args.size() > names.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(callee, " takes at most ", names.size(), " arguments, not ", args.size()));
  }
  std::vector<JinjaValue> bound = args;
  bound.resize(names.size());
  std::vector<bool> given(names.size());
  std::fill_n(given.begin(), args.size(), true);
  for (const auto& [name, value] : kwargs) {
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) return absl::InvalidArgumentError(absl::StrCat(callee, " has no argument '", name, "'"));
    const auto i = static_cast<size_t>(it - names.begin());
    if (given[i]) return absl::InvalidArgumentError(absl::StrCat(callee, " gets argument '", name, "' twice"));
    given[i] = true;
    bound[i] = value;
  }
  for (size_t i = 0; i < num_required; ++i) {
    if (!given[i]) return absl::InvalidArgumentError(absl::StrCat(callee, " lacks its argument '", names[i], "'"));
  }
  return bound;
}

absl::StatusOr<JinjaValue> JinjaRuntime::List(std::vector<JinjaValue> items, JinjaSequenceKind kind) {
  TF_RETURN_IF_ERROR(budget_.Steps(1 + static_cast<int64_t>(items.size())));
  JinjaValue value = JinjaValue::Sequence(std::move(items), kind);
  TF_RETURN_IF_ERROR(budget_.ValueDepth(value.depth()));
  return value;
}

absl::StatusOr<JinjaValue> JinjaRuntime::Dict(JinjaDict dict) {
  TF_RETURN_IF_ERROR(budget_.Steps(1 + static_cast<int64_t>(dict.members().size())));
  TF_RETURN_IF_ERROR(budget_.ValueDepth(dict.depth()));
  return JinjaValue::Dict(std::move(dict));
}

absl::StatusOr<JinjaValue> JinjaRuntime::Text(TaggedText text) {
  TF_RETURN_IF_ERROR(budget_.Text(static_cast<int64_t>(text.size())));
  return JinjaValue::Text(std::move(text));
}

absl::StatusOr<std::vector<JinjaValue>> JinjaRuntime::Iterate(const JinjaValue& value) {
  std::vector<JinjaValue> items;
  if (const JinjaSequence* list = value.sequence()) {
    if (list->kind == JinjaSequenceKind::kGenerator && std::exchange(list->walked, true)) return items;
    items = list->items;
  } else if (const JinjaDict* dict = value.dict()) {
    for (const auto& [key, unused] : dict->members()) items.push_back(key);
  } else if (const TaggedText* text = value.text()) {
    TF_RETURN_IF_ERROR(budget_.Steps(static_cast<int64_t>(text->size())));
    for (size_t begin = 0; begin < text->size();) {
      const size_t end = begin + FirstCharacter(absl::string_view(text->text()).substr(begin)).size();
      items.push_back(JinjaValue::Text(text->Range(begin, end)));
      begin = end;
    }
  } else if (!value.is_undefined()) {
    return absl::InvalidArgumentError(absl::StrCat("'", value.TypeName(), "' object is not iterable"));
  }
  TF_RETURN_IF_ERROR(budget_.Steps(static_cast<int64_t>(items.size())));
  return items;
}

absl::Status CheckDefined(const JinjaValue& value) {
  const JinjaUndefined* undefined = value.undefined();
  if (undefined == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(undefined->what == nullptr ? "a value is undefined" : *undefined->what);
}

absl::StatusOr<const TaggedText*> ExpectText(const JinjaValue& value, absl::string_view what) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  if (value.text() != nullptr) return value.text();
  return absl::InvalidArgumentError(absl::StrCat(what, " must be a text, not of type ", value.TypeName()));
}

absl::StatusOr<int64_t> ExpectInt(const JinjaValue& value, absl::string_view what) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  if (value.boolean() != nullptr) return *value.boolean() ? 1 : 0;
  const absl::int128* integer = value.integer();
  if (integer == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(what, " must be an integer, not of type ", value.TypeName()));
  }
  // Beyond 64 bits it means no more than "very far", for indices and counts alike.
  constexpr auto kMax = std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::clamp<absl::int128>(*integer, -kMax, kMax));
}

}  // namespace tokenferry
