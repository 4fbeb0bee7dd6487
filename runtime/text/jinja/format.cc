#include "runtime/text/jinja/format.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "core/io/foreign_text.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {
namespace {

absl::Status NotSupported(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("format '", Excerpt(what), "' is not supported"));
}

double AsDouble(const JinjaValue& value) {
  if (value.real() != nullptr) return *value.real();
  return value.boolean() != nullptr ? (*value.boolean() ? 1 : 0) : static_cast<double>(*value.integer());
}

// `directive`: what stands between % and the letter, and the letter.
absl::StatusOr<TaggedText> FormatOne(absl::string_view directive, const JinjaValue& value, JinjaBudget& budget) {
  const char letter = directive.back();
  const absl::string_view flags = directive.substr(0, directive.size() - 1);
  if (letter == 's' && flags.empty()) return ToText(value, budget);
  if (letter == 'r' && flags.empty()) return ToRepr(value, budget);
  if ((letter == 'd' || letter == 'i' || letter == 'f') && !value.is_number()) {
    return absl::InvalidArgumentError(absl::StrCat("%", directive, " needs a number, not of type ", value.TypeName()));
  }
  if ((letter == 'd' || letter == 'i') && flags.empty()) {
    if (value.real() == nullptr && value.boolean() == nullptr) return ToText(value, budget);
    return TaggedText(absl::StrFormat("%.0f", std::trunc(AsDouble(value))), TextOrigin::kModel);
  }
  int precision = 6;
  if (letter == 'f' && (flags.empty() || (flags[0] == '.' && absl::SimpleAtoi(flags.substr(1), &precision)))) {
    if (precision < 0 || precision > 100) return NotSupported(absl::StrCat("%", directive));
    return TaggedText(absl::StrFormat("%.*f", precision, AsDouble(value)), TextOrigin::kModel);
  }
  return NotSupported(absl::StrCat("%", directive));
}

}  // namespace

absl::StatusOr<JinjaValue> FormatPercent(const TaggedText& format, const JinjaValue& values, JinjaRuntime& runtime) {
  std::vector<JinjaValue> list = {values};
  if (values.sequence() != nullptr && values.sequence()->kind == JinjaSequenceKind::kTuple) {
    list = values.sequence()->items;
  }
  const absl::string_view text = format.text();
  TaggedText out;
  size_t next = 0, begin = 0;
  while (true) {
    const size_t percent = text.find('%', begin);
    out.AppendRange(format, begin, std::min(percent, text.size()));
    if (percent == absl::string_view::npos) break;
    size_t end = percent + 1;
    while (end < text.size() && !absl::ascii_isalpha(text[end]) && text[end] != '%') ++end;
    if (end == text.size()) return absl::InvalidArgumentError("incomplete format");
    const absl::string_view directive = text.substr(percent + 1, end - percent);
    if (directive == "%") {
      out.AppendRange(format, percent, percent + 1);
    } else {
      if (next == list.size()) return absl::InvalidArgumentError("not enough arguments for format string");
      TF_ASSIGN_OR_RETURN(const TaggedText value, FormatOne(directive, list[next++], runtime.budget()));
      out.Append(value);
    }
    TF_RETURN_IF_ERROR(runtime.budget().Grown(static_cast<int64_t>(out.size())));
    begin = end + 1;
  }
  const bool is_mapping = list.size() == 1 && list[0].dict() != nullptr;
  if (next < list.size() && !is_mapping) {
    return absl::InvalidArgumentError("not all arguments converted during string formatting");
  }
  return runtime.Text(std::move(out));
}

absl::StatusOr<JinjaValue> FormatBraces(const TaggedText& format, const JinjaArguments& values, JinjaRuntime& runtime) {
  const absl::string_view text = format.text();
  TaggedText out;
  size_t next = 0, begin = 0;
  while (true) {
    const size_t brace = text.find_first_of("{}", begin);
    out.AppendRange(format, begin, std::min(brace, text.size()));
    if (brace == absl::string_view::npos) break;
    if (brace + 1 < text.size() && text[brace + 1] == text[brace]) {
      out.AppendRange(format, brace, brace + 1);
      begin = brace + 2;
      continue;
    }
    const size_t end = text.find('}', brace);
    if (text[brace] == '}' || end == absl::string_view::npos) {
      return absl::InvalidArgumentError("a single brace in a format; write it twice");
    }
    const absl::string_view field = text.substr(brace + 1, end - brace - 1);
    size_t index = next;
    const JinjaValue* value = nullptr;
    if (field.empty() || absl::SimpleAtoi(field, &index)) {
      if (field.empty()) ++next;
      if (index < values.args.size()) value = &values.args[index];
    } else {
      if (field.find_first_of("!:.[") != absl::string_view::npos) return NotSupported(absl::StrCat("{", field, "}"));
      for (const auto& [name, given] : values.kwargs) {
        if (name == field) value = &given;
      }
    }
    if (value == nullptr) return absl::InvalidArgumentError(absl::StrCat("format lacks a value for {", field, "}"));
    TF_ASSIGN_OR_RETURN(const TaggedText shown, ToText(*value, runtime.budget()));
    out.Append(shown);
    TF_RETURN_IF_ERROR(runtime.budget().Grown(static_cast<int64_t>(out.size())));
    begin = end + 1;
  }
  return runtime.Text(std::move(out));
}

}  // namespace tokenferry
