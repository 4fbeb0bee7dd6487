// Filters that make texts.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/text_ops.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {
namespace {

using View = absl::string_view;
using Result = absl::StatusOr<JinjaValue>;

// str(value), then its method `name`.
absl::StatusOr<JinjaValue> CallOnText(JinjaRuntime& runtime, const JinjaValue& value, View name,
                                      const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(TaggedText text, ToText(value, runtime.budget()));
  TF_ASSIGN_OR_RETURN(const JinjaValue as_text, runtime.Text(std::move(text)));
  return CallJinjaMethod(runtime, FindTextMethod(name), as_text, arguments);
}

Result Upper(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  return CallOnText(runtime, value, "upper", arguments);
}
Result Lower(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  return CallOnText(runtime, value, "lower", arguments);
}
Result Capitalize(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  return CallOnText(runtime, value, "capitalize", arguments);
}
Result Trim(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  return CallOnText(runtime, value, "strip", arguments);
}
Result Replace(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(auto args, arguments.Bind("replace", {"old", "new", "count"}, 2));
  if (args[2].is_none()) args.pop_back();
  return CallOnText(runtime, value, "replace", {std::move(args), {}});
}
Result Center(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(auto args, arguments.Bind("center", {"width"}, 0));
  if (args[0].is_undefined()) args[0] = JinjaValue::Int(80);
  return CallOnText(runtime, value, "center", {std::move(args), {}});
}

// Each word begins with a capital; words end at white space and opening brackets, unlike those of str.title.
Result Title(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("title", {}, 0).status());
  TF_ASSIGN_OR_RETURN(const TaggedText text, ToText(value, runtime.budget()));
  TF_RETURN_IF_ERROR(runtime.budget().Steps(static_cast<int64_t>(text.size()) / 8));
  const View view = text.text();
  const auto separates = [](char32_t c) {
    return IsPythonSpace(c) || (c < 0x80 && View("-({[<").find(static_cast<char>(c)) != View::npos);
  };
  TaggedText out;
  bool first = true;
  for (size_t pos = 0; pos < view.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(view, pos);
    std::string changed;
    AppendCase(c, first ? LetterCase::kUpper : LetterCase::kLower, changed);
    out.Append(changed, text.IsAll(TextOrigin::kModel, begin, pos) ? TextOrigin::kModel : TextOrigin::kMessage);
    first = separates(c);
  }
  return runtime.Text(std::move(out));
}

Result Indent(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("indent", {"width", "first", "blank"}, 0));
  TaggedText indent("    ", TextOrigin::kModel);
  if (args[0].text() != nullptr) {
    indent = *args[0].text();
  } else if (!args[0].is_undefined()) {
    TF_ASSIGN_OR_RETURN(const int64_t width, ExpectInt(args[0], "indent: width"));
    TF_RETURN_IF_ERROR(runtime.budget().Text(std::max<int64_t>(width, 0)));
    indent = TaggedText(std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' '), TextOrigin::kModel);
  }
  TF_ASSIGN_OR_RETURN(TaggedText text, ToText(value, runtime.budget()));
  text.Append("\n", TextOrigin::kModel);  // so that an empty last line is a line
  const std::vector<TaggedText> lines = SplitTextLines(text);
  TF_RETURN_IF_ERROR(runtime.budget().Text(static_cast<int64_t>(text.size() + lines.size() * indent.size())));
  TaggedText out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n", TextOrigin::kModel);
    const bool indented = i == 0 ? args[1].Truthy() : !lines[i].empty() || args[2].Truthy();
    if (indented) out.Append(indent);
    out.Append(lines[i]);
  }
  return runtime.Text(std::move(out));
}

Result WordCount(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("wordcount", {}, 0).status());
  TF_ASSIGN_OR_RETURN(const TaggedText text, ToText(value, runtime.budget()));
  int64_t count = 0;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const bool is_word = IsPythonAlphanumeric(DecodeUtf8(text.text(), pos)) || text.text()[pos - 1] == '_';
    count += is_word && !in_word ? 1 : 0;
    in_word = is_word;
  }
  return JinjaValue::Int(count);
}

Result Truncate(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("truncate", {"length", "killwords", "end", "leeway"}, 0));
  int64_t length = 255, leeway = 5;
  if (!args[0].is_undefined()) {
    TF_ASSIGN_OR_RETURN(length, ExpectInt(args[0], "truncate: length"));
  }
  if (!args[3].is_undefined() && !args[3].is_none()) {
    TF_ASSIGN_OR_RETURN(leeway, ExpectInt(args[3], "truncate: leeway"));
  }
  TaggedText end("...", TextOrigin::kModel);
  if (args[2].text() != nullptr) end = *args[2].text();
  const int64_t end_length = NumCharacters(end.text());
  if (length < end_length || leeway < 0) return absl::InvalidArgumentError("truncate: length is too small");
  TF_ASSIGN_OR_RETURN(TaggedText text, ToText(value, runtime.budget()));
  if (NumCharacters(text.text()) - leeway <= length) return runtime.Text(std::move(text));
  TaggedText out = SliceText(text, 0, length - end_length, 1);
  if (!args[1].Truthy()) {
    const size_t space = out.text().rfind(' ');
    if (space != std::string::npos) out = out.Range(0, space);
  }
  out.Append(end);
  return runtime.Text(std::move(out));
}

Result Escape(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("escape", {}, 0).status());
  TF_ASSIGN_OR_RETURN(TaggedText text, ToText(value, runtime.budget()));
  static constexpr std::pair<View, View> kEntities[] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  for (const auto& [character, entity] : kEntities) {
    text = ReplaceText(text, character, TaggedText(entity, TextOrigin::kModel), -1);
    TF_RETURN_IF_ERROR(runtime.budget().Text(static_cast<int64_t>(text.size())));
  }
  return JinjaValue::Text(std::move(text));
}

Result UrlEncode(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("urlencode", {}, 0).status());
  TF_ASSIGN_OR_RETURN(const TaggedText* text, ExpectText(value, "urlencode: the value"));
  std::string out;
  for (const char c : text->text()) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || View("_.-~/").find(c) != View::npos) {
      out += c;
    } else {
      absl::StrAppendFormat(&out, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return runtime.Text(TaggedText(out, text->Mixed()));
}

Result Format(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  if (!arguments.kwargs.empty()) return absl::UnimplementedError("format: arguments by name are not supported");
  TF_ASSIGN_OR_RETURN(const TaggedText text, ToText(value, runtime.budget()));
  return FormatPercent(text, JinjaValue::Sequence(arguments.args, JinjaSequenceKind::kTuple), runtime);
}

constexpr std::pair<View, JinjaMethod> kFilters[] = {
    {"capitalize", Capitalize}, {"center", Center},       {"e", Escape},
    {"escape", Escape},         {"forceescape", Escape},  {"format", Format},
    {"indent", Indent},         {"lower", Lower},         {"replace", Replace},
    {"title", Title},           {"trim", Trim},           {"truncate", Truncate},
    {"upper", Upper},           {"urlencode", UrlEncode}, {"wordcount", WordCount},
};

}  // namespace

JinjaMethod FindTextFilter(View name) {
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  return nullptr;
}

}  // namespace tokenferry
