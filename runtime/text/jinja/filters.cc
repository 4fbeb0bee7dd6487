// Filters of single values.
#include "runtime/text/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/python_text.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {
namespace {

using View = absl::string_view;
using Result = absl::StatusOr<JinjaValue>;

Result Default(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("default", {"default_value", "boolean"}, 0));
  if (!value.is_undefined() && (value.Truthy() || !args[1].Truthy())) return value;
  return args[0].is_undefined() ? JinjaValue::Text("", TextOrigin::kModel) : args[0];
}

// indent: spaces by number, or a text; None: one line.
absl::StatusOr<JinjaJsonStyle> JsonStyle(const std::vector<JinjaValue>& args) {
  JinjaJsonStyle style;
  style.ensure_ascii = args[0].Truthy();
  if (args[1].text() != nullptr) {
    style.indent = *args[1].text();
  } else if (!args[1].is_undefined() && !args[1].is_none()) {
    TF_ASSIGN_OR_RETURN(const int64_t width, ExpectInt(args[1], "tojson: indent"));
    const std::string spaces(static_cast<size_t>(std::clamp<int64_t>(width, 0, 100)), ' ');
    style.indent = TaggedText(spaces, TextOrigin::kModel);
  }
  if (style.indent) style.item_separator = TaggedText(",", TextOrigin::kModel);
  if (!args[2].is_undefined() && !args[2].is_none()) {
    const JinjaSequence* separators = args[2].sequence();
    if (separators == nullptr || separators->items.size() != 2) {
      return absl::InvalidArgumentError("tojson: separators must be two texts");
    }
    TF_ASSIGN_OR_RETURN(const TaggedText* item, ExpectText(separators->items[0], "tojson: a separator"));
    TF_ASSIGN_OR_RETURN(const TaggedText* key, ExpectText(separators->items[1], "tojson: a separator"));
    style.item_separator = *item;
    style.key_separator = *key;
  }
  style.sort_keys = args[3].Truthy();
  return style;
}

Result ToJsonFilter(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args,
                      arguments.Bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  TF_ASSIGN_OR_RETURN(const JinjaJsonStyle style, JsonStyle(args));
  TF_ASSIGN_OR_RETURN(TaggedText json, ToJson(value, style, runtime.budget()));
  return JinjaValue::Text(std::move(json));
}

Result String(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("string", {}, 0).status());
  TF_ASSIGN_OR_RETURN(TaggedText text, ToText(value, runtime.budget()));
  return runtime.Text(std::move(text));
}

Result Length(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("length", {}, 0).status());
  TF_ASSIGN_OR_RETURN(const int64_t length, JinjaLength(value));
  return JinjaValue::Int(length);
}

absl::StatusOr<double> Number(const JinjaValue& value) {
  TF_RETURN_IF_ERROR(CheckDefined(value));
  if (value.real() != nullptr) return *value.real();
  if (value.boolean() != nullptr) return *value.boolean() ? 1 : 0;
  if (value.integer() != nullptr) return static_cast<double>(*value.integer());
  double parsed = 0;
  if (value.text() != nullptr && absl::SimpleAtod(value.text()->text(), &parsed)) return parsed;
  return absl::InvalidArgumentError(absl::StrCat("no number, but of type ", value.TypeName()));
}

Result Int(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("int", {"default", "base"}, 0));
  if (!args[1].is_undefined()) return absl::UnimplementedError("int: a base is not supported");
  int64_t parsed = 0;
  if (value.text() != nullptr && absl::SimpleAtoi(value.text()->text(), &parsed)) return JinjaValue::Int(parsed);
  if (value.integer() != nullptr) return value;
  TF_RETURN_IF_ERROR(CheckDefined(value));
  const absl::StatusOr<double> number = Number(value);
  constexpr double kLimit = 9.2e18;
  if (number.ok() && std::abs(*number) < kLimit) return JinjaValue::Int(static_cast<int64_t>(*number));
  return args[0].is_undefined() ? JinjaValue::Int(0) : args[0];
}

Result Float(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("float", {"default"}, 0));
  TF_RETURN_IF_ERROR(CheckDefined(value));
  const absl::StatusOr<double> number = Number(value);
  if (number.ok()) return JinjaValue::Float(*number);
  return args[0].is_undefined() ? JinjaValue::Float(0) : args[0];
}

Result Abs(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("abs", {}, 0).status());
  TF_ASSIGN_OR_RETURN(const bool negative, JinjaLess(value, JinjaValue::Int(0), runtime.budget()));
  return negative ? JinjaNegative(value) : value;
}

Result Round(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("round", {"precision", "method"}, 0));
  TF_ASSIGN_OR_RETURN(const double number, Number(value));
  int64_t precision = 0;
  if (!args[0].is_undefined()) {
    TF_ASSIGN_OR_RETURN(precision, ExpectInt(args[0], "round: precision"));
  }
  if (precision < 0 || precision > 15) return absl::InvalidArgumentError("round: precision must be in [0, 15]");
  std::string method = "common";
  if (!args[1].is_undefined()) {
    TF_ASSIGN_OR_RETURN(const TaggedText* text, ExpectText(args[1], "round: method"));
    method = text->text();
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return JinjaValue::Float(std::ceil(number * scale) / scale);
  if (method == "floor") return JinjaValue::Float(std::floor(number * scale) / scale);
  if (method != "common") return absl::InvalidArgumentError("round: method must be common, ceil or floor");
  double rounded = 0;  // Python's: of the decimal digits, ties to even
  if (!absl::SimpleAtod(absl::StrFormat("%.*f", static_cast<int>(precision), number), &rounded)) rounded = number;
  return JinjaValue::Float(rounded);
}

Result Attr(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("attr", {"name"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* name, ExpectText(args[0], "attr: name"));
  if (value.object() != nullptr) return value.object()->Attribute(name->text());
  if (const JinjaMethod method = FindJinjaMethod(value, name->text()); method != nullptr) {
    TF_ASSIGN_OR_RETURN(JinjaBoundMethod * bound, runtime.New<JinjaBoundMethod>(value, method));
    return JinjaValue::Object(bound);
  }
  return JinjaValue::Undefined(absl::StrCat("'", value.TypeName(), "' object has no attribute '", name->text(), "'"));
}

Result Items(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("items", {}, 0).status());
  if (value.is_undefined()) return runtime.List({}, JinjaSequenceKind::kGenerator);
  if (value.dict() == nullptr) return absl::InvalidArgumentError("items: can only get items from a mapping");
  TF_ASSIGN_OR_RETURN(const JinjaValue items, FindJinjaMethod(value, "items")(runtime, value, {}));
  return runtime.List(items.sequence()->items, JinjaSequenceKind::kGenerator);
}

Result Same(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("safe", {}, 0).status());
  return value;
}

constexpr std::pair<View, JinjaMethod> kFilters[] = {
    {"abs", Abs},     {"attr", Attr},     {"count", Length},        {"d", Default},     {"default", Default},
    {"float", Float}, {"int", Int},       {"items", Items},         {"length", Length}, {"round", Round},
    {"safe", Same},   {"string", String}, {"tojson", ToJsonFilter},
};

}  // namespace

JinjaMethod FindJinjaFilter(View name) {
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  for (const auto find : {FindTextFilter, FindListFilter, FindSelectFilter}) {
    if (const JinjaMethod filter = find(name); filter != nullptr) return filter;
  }
  return nullptr;
}

}  // namespace tokenferry
