// Python's methods of str.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/text_ops.h"

namespace tokenferry {
namespace {

using View = absl::string_view;
using Result = absl::StatusOr<JinjaValue>;

bool Absent(const JinjaValue& value) { return value.is_undefined() || value.is_none(); }

template <TextSide kSide>
Result Strip(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("strip", {"chars"}, 0));
  if (Absent(args[0])) return runtime.Text(StripText(*self.text(), kSide, nullptr));
  TF_ASSIGN_OR_RETURN(const TaggedText* chars, ExpectText(args[0], "strip: chars"));
  const View view = chars->text();
  TF_RETURN_IF_ERROR(runtime.budget().Search(self.text()->size(), view.size()));
  return runtime.Text(StripText(*self.text(), kSide, &view));
}

absl::StatusOr<JinjaValue> ListOf(JinjaRuntime& runtime, std::vector<TaggedText> parts, JinjaSequenceKind kind) {
  std::vector<JinjaValue> items;
  for (TaggedText& part : parts) {
    TF_ASSIGN_OR_RETURN(JinjaValue item, runtime.Text(std::move(part)));
    items.push_back(std::move(item));
  }
  return runtime.List(std::move(items), kind);
}

template <TextSide kFrom>
Result Split(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("split", {"sep", "maxsplit"}, 0));
  int64_t max_splits = -1;
  if (!args[1].is_undefined()) {
    TF_ASSIGN_OR_RETURN(max_splits, ExpectInt(args[1], "split: maxsplit"));
  }
  std::optional<View> separator;
  if (!Absent(args[0])) {
    TF_ASSIGN_OR_RETURN(const TaggedText* text, ExpectText(args[0], "split: sep"));
    if (text->empty()) return absl::InvalidArgumentError("split: empty separator");
    separator = text->text();
    TF_RETURN_IF_ERROR(runtime.budget().Search(self.text()->size(), separator->size()));
  }
  return ListOf(runtime, SplitText(*self.text(), separator ? &*separator : nullptr, max_splits, kFrom),
                JinjaSequenceKind::kList);
}

Result SplitLines(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("splitlines", {}, 0).status());
  return ListOf(runtime, SplitTextLines(*self.text()), JinjaSequenceKind::kList);
}

template <TextSide kFrom>
Result Partition(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("partition", {"sep"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* separator, ExpectText(args[0], "partition: sep"));
  if (separator->empty()) return absl::InvalidArgumentError("partition: empty separator");
  const TaggedText& text = *self.text();
  TF_RETURN_IF_ERROR(runtime.budget().Search(text.size(), separator->size()));
  const size_t found =
      kFrom == TextSide::kRight ? text.text().rfind(separator->text()) : text.text().find(separator->text());
  std::vector<TaggedText> parts(3);
  if (found == std::string::npos) {
    parts[kFrom == TextSide::kRight ? 2 : 0] = text;
  } else {
    const size_t behind = found + separator->size();
    parts = {text.Range(0, found), text.Range(found, behind), text.Range(behind, text.size())};
  }
  return ListOf(runtime, std::move(parts), JinjaSequenceKind::kTuple);
}

// text[start:end] in characters, as methods with these two arguments see it; and the character where it begins.
absl::StatusOr<std::pair<View, int64_t>> Window(const TaggedText& text, const JinjaValue& start,
                                                const JinjaValue& end) {
  const View view = text.text();
  if (Absent(start) && Absent(end)) return std::make_pair(view, int64_t{0});
  const int64_t size = NumCharacters(view);
  int64_t first = 0, last = size;
  if (!Absent(start)) {
    TF_ASSIGN_OR_RETURN(first, ExpectInt(start, "start"));
  }
  if (!Absent(end)) {
    TF_ASSIGN_OR_RETURN(last, ExpectInt(end, "end"));
  }
  first = std::clamp<int64_t>(first < 0 ? first + size : first, 0, size);
  last = std::clamp<int64_t>(last < 0 ? last + size : last, first, size);
  const size_t begin = ByteOfCharacter(view, first);
  return std::make_pair(view.substr(begin, ByteOfCharacter(view.substr(begin), last - first)), first);
}

using HasAffix = bool (*)(View, View);

Result TestAffix(View name, HasAffix has, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind(name, {"prefix", "start", "end"}, 1));
  TF_ASSIGN_OR_RETURN(const auto window, Window(*self.text(), args[1], args[2]));
  std::vector<JinjaValue> candidates = {args[0]};
  if (args[0].sequence() != nullptr && args[0].sequence()->kind == JinjaSequenceKind::kTuple) {
    candidates = args[0].sequence()->items;
  }
  for (const JinjaValue& candidate : candidates) {
    TF_ASSIGN_OR_RETURN(const TaggedText* affix, ExpectText(candidate, absl::StrCat(name, ": its argument")));
    if (has(window.first, affix->text())) return JinjaValue::Bool(true);
  }
  return JinjaValue::Bool(false);
}

bool StartsWith(View text, View affix) { return absl::StartsWith(text, affix); }
bool EndsWith(View text, View affix) { return absl::EndsWith(text, affix); }

Result TestStart(JinjaRuntime&, const JinjaValue& self, const JinjaArguments& arguments) {
  return TestAffix("startswith", StartsWith, self, arguments);
}
Result TestEnd(JinjaRuntime&, const JinjaValue& self, const JinjaArguments& arguments) {
  return TestAffix("endswith", EndsWith, self, arguments);
}

Result RemovePrefix(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("removeprefix", {"prefix"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* prefix, ExpectText(args[0], "removeprefix: prefix"));
  const TaggedText& text = *self.text();
  return runtime.Text(text.Range(StartsWith(text.text(), prefix->text()) ? prefix->size() : 0, text.size()));
}
Result RemoveSuffix(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("removesuffix", {"suffix"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* suffix, ExpectText(args[0], "removesuffix: suffix"));
  const TaggedText& text = *self.text();
  return runtime.Text(text.Range(0, text.size() - (EndsWith(text.text(), suffix->text()) ? suffix->size() : 0)));
}

Result Replace(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("replace", {"old", "new", "count"}, 2));
  TF_ASSIGN_OR_RETURN(const TaggedText* old_text, ExpectText(args[0], "replace: old"));
  TF_ASSIGN_OR_RETURN(const TaggedText* new_text, ExpectText(args[1], "replace: new"));
  int64_t count = -1;
  if (!args[2].is_undefined()) {
    TF_ASSIGN_OR_RETURN(count, ExpectInt(args[2], "replace: count"));
  }
  TF_RETURN_IF_ERROR(runtime.budget().Search(self.text()->size(), old_text->size()));
  // Before it is made: what it can grow to at most.
  const TaggedText& text = *self.text();
  const auto most = static_cast<int64_t>(text.size() / std::max<size_t>(old_text->size(), 1) + 1);
  const int64_t times = count < 0 ? most : std::min(most, count);
  TF_RETURN_IF_ERROR(runtime.budget().Text(
      static_cast<int64_t>(text.size()) +
      (new_text->size() <= old_text->size() ? 0 : times * static_cast<int64_t>(new_text->size()))));
  return JinjaValue::Text(ReplaceText(text, old_text->text(), *new_text, count));
}

template <CaseRule kRule>
Result Case(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("a change of case", {}, 0).status());
  TF_RETURN_IF_ERROR(runtime.budget().Steps(static_cast<int64_t>(self.text()->size()) / 8));
  return runtime.Text(ChangeCase(*self.text(), kRule));
}

enum class NotFound : uint8_t { kMinusOne, kError };

template <TextSide kFrom, NotFound kNotFound>
Result Find(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("find", {"sub", "start", "end"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* part, ExpectText(args[0], "find: its argument"));
  TF_ASSIGN_OR_RETURN(const auto window, Window(*self.text(), args[1], args[2]));
  TF_RETURN_IF_ERROR(runtime.budget().Search(window.first.size(), part->size()));
  const size_t at = kFrom == TextSide::kRight ? window.first.rfind(part->text()) : window.first.find(part->text());
  if (at != View::npos) return JinjaValue::Int(window.second + NumCharacters(window.first.substr(0, at)));
  if (kNotFound == NotFound::kError) return absl::InvalidArgumentError("substring not found");
  return JinjaValue::Int(-1);
}

Result Count(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("count", {"sub", "start", "end"}, 1));
  TF_ASSIGN_OR_RETURN(const TaggedText* part, ExpectText(args[0], "count: its argument"));
  TF_ASSIGN_OR_RETURN(const auto window, Window(*self.text(), args[1], args[2]));
  TF_RETURN_IF_ERROR(runtime.budget().Search(window.first.size(), part->size()));
  if (part->empty()) return JinjaValue::Int(NumCharacters(window.first) + 1);
  int64_t count = 0;
  for (size_t at = window.first.find(part->text()); at != View::npos;
       at = window.first.find(part->text(), at + part->size())) {
    ++count;
  }
  return JinjaValue::Int(count);
}

Result Join(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("join", {"iterable"}, 1));
  TF_ASSIGN_OR_RETURN(const auto items, runtime.Iterate(args[0]));
  std::vector<TaggedText> parts;
  int64_t size = 0;
  for (const JinjaValue& item : items) {
    TF_ASSIGN_OR_RETURN(const TaggedText* part, ExpectText(item, "join: each element"));
    size += static_cast<int64_t>(part->size() + self.text()->size());
    TF_RETURN_IF_ERROR(runtime.budget().Grown(size));
    parts.push_back(*part);
  }
  return runtime.Text(JoinTexts(parts, *self.text()));
}

using CharacterTest = bool (*)(char32_t);

// Whether there are characters, and all pass.
template <CharacterTest kTest>
Result All(JinjaRuntime&, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("a test of characters", {}, 0).status());
  const View text = self.text()->text();
  bool all = !text.empty();
  for (size_t pos = 0; all && pos < text.size();) all = kTest(DecodeUtf8(text, pos));
  return JinjaValue::Bool(all);
}

// isupper, islower: there are cased characters, and all have this case.
template <LetterCase kCase>
Result AllInCase(JinjaRuntime&, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("a test of case", {}, 0).status());
  const View text = self.text()->text();
  bool any = false;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (!IsCased(DecodeUtf8(text, pos))) continue;
    any = true;
    std::string changed;
    size_t again = begin;
    AppendCase(DecodeUtf8(text, again), kCase, changed);
    if (changed != text.substr(begin, pos - begin)) return JinjaValue::Bool(false);
  }
  return JinjaValue::Bool(any);
}

// ljust: kRight is filled; rjust: kLeft; center: both, the odd one as in Python.
template <TextSide kFilled>
Result Justify(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("justify", {"width", "fillchar"}, 1));
  TF_ASSIGN_OR_RETURN(const int64_t width, ExpectInt(args[0], "width"));
  TaggedText fill(" ", TextOrigin::kModel);
  if (!args[1].is_undefined()) {
    TF_ASSIGN_OR_RETURN(const TaggedText* given, ExpectText(args[1], "fillchar"));
    if (NumCharacters(given->text()) != 1) return absl::InvalidArgumentError("fillchar must be one character");
    fill = *given;
  }
  const int64_t missing = std::max<int64_t>(width - NumCharacters(self.text()->text()), 0);
  TF_RETURN_IF_ERROR(runtime.budget().Text(missing));
  const int64_t left = kFilled == TextSide::kLeft   ? missing
                       : kFilled == TextSide::kBoth ? missing / 2 + (missing & width & 1)
                                                    : 0;
  TaggedText out;
  for (int64_t i = 0; i < left; ++i) out.Append(fill);
  out.Append(*self.text());
  for (int64_t i = left; i < missing; ++i) out.Append(fill);
  return runtime.Text(std::move(out));
}

Result Format(JinjaRuntime& runtime, const JinjaValue& self, const JinjaArguments& arguments) {
  return FormatBraces(*self.text(), arguments, runtime);
}

constexpr std::pair<View, JinjaMethod> kTextMethods[] = {
    {"capitalize", Case<CaseRule::kCapitalize>},
    {"casefold", Case<CaseRule::kLower>},
    {"center", Justify<TextSide::kBoth>},
    {"count", Count},
    {"endswith", TestEnd},
    {"find", Find<TextSide::kLeft, NotFound::kMinusOne>},
    {"format", Format},
    {"index", Find<TextSide::kLeft, NotFound::kError>},
    {"isalnum", All<IsPythonAlphanumeric>},
    {"isalpha", All<IsPythonLetter>},
    {"isdecimal", All<IsPythonDecimal>},
    {"isdigit", All<IsPythonDigit>},
    {"islower", AllInCase<LetterCase::kLower>},
    {"isnumeric", All<IsPythonNumeric>},
    {"isspace", All<IsPythonSpace>},
    {"isupper", AllInCase<LetterCase::kUpper>},
    {"join", Join},
    {"ljust", Justify<TextSide::kRight>},
    {"lower", Case<CaseRule::kLower>},
    {"lstrip", Strip<TextSide::kLeft>},
    {"partition", Partition<TextSide::kLeft>},
    {"removeprefix", RemovePrefix},
    {"removesuffix", RemoveSuffix},
    {"replace", Replace},
    {"rfind", Find<TextSide::kRight, NotFound::kMinusOne>},
    {"rindex", Find<TextSide::kRight, NotFound::kError>},
    {"rjust", Justify<TextSide::kLeft>},
    {"rpartition", Partition<TextSide::kRight>},
    {"rsplit", Split<TextSide::kRight>},
    {"rstrip", Strip<TextSide::kRight>},
    {"split", Split<TextSide::kLeft>},
    {"splitlines", SplitLines},
    {"startswith", TestStart},
    {"strip", Strip<TextSide::kBoth>},
    {"swapcase", Case<CaseRule::kSwap>},
    {"title", Case<CaseRule::kTitle>},
    {"upper", Case<CaseRule::kUpper>},
};

}  // namespace

JinjaMethod FindTextMethod(View name) {
  for (const auto& [known, method] : kTextMethods) {
    if (name == known) return method;
  }
  return nullptr;
}

}  // namespace tokenferry
