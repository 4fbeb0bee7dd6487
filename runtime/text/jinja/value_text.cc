#include "runtime/text/jinja/value_text.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "runtime/text/jinja/python_text.h"

namespace tokenferry {
namespace {

constexpr TextOrigin kModel = TextOrigin::kModel;

// Text escaped, each part keeping its origin.
template <class Escape>
void AppendEscaped(const TaggedText& text, Escape escape, TaggedText& out) {
  size_t begin = 0;
  for (const TaggedText::Run& run : text.runs()) {
    out.Append(escape(absl::string_view(text.text()).substr(begin, run.end - begin)), run.origin);
    begin = run.end;
  }
}

void AppendUtf16Escape(char32_t c, std::string& out) {
  if (c < 0x10000) {
    absl::StrAppendFormat(&out, "\\u%04x", static_cast<uint32_t>(c));
    return;
  }
  const uint32_t rest = static_cast<uint32_t>(c) - 0x10000;
  absl::StrAppendFormat(&out, "\\u%04x\\u%04x", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
}

std::string EscapeJson(absl::string_view text, bool ensure_ascii) {
  static constexpr std::pair<char32_t, const char*> kShort[] = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\n', "\\n"}, {'\r', "\\r"}, {'\t', "\\t"}, {'\b', "\\b"}, {'\f', "\\f"}};
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, pos);
    const auto* escape =
        std::find_if(std::begin(kShort), std::end(kShort), [c](auto& pair) { return pair.first == c; });
    if (escape != std::end(kShort)) {
      out += escape->second;
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E)) {
      AppendUtf16Escape(c, out);
    } else {
      out.append(text.data() + begin, pos - begin);
    }
  }
  return out;
}

class ReprWriter {
 public:
  ReprWriter(JinjaBudget& budget, TaggedText& out) : budget_(budget), out_(out) {}

  absl::Status Write(const JinjaValue& value) {
    TF_RETURN_IF_ERROR(budget_.Grown(static_cast<int64_t>(out_.size())));
    if (const TaggedText* text = value.text()) {
      TF_RETURN_IF_ERROR(budget_.Text(static_cast<int64_t>(text->size())));
      out_.Append(PythonRepr(text->text()), text->Mixed());
    } else if (const JinjaSequence* list = value.sequence()) {
      return WriteSequence(*list);
    } else if (const JinjaDict* dict = value.dict()) {
      return WriteDict(*dict);
    } else {
      out_.Append(Scalar(value), kModel);
    }
    return absl::OkStatus();
  }

  static std::string Scalar(const JinjaValue& value) {
    if (value.is_undefined()) return "Undefined";
    if (value.is_none()) return "None";
    if (value.boolean() != nullptr) return *value.boolean() ? "True" : "False";
    if (value.integer() != nullptr) return IntegerText(*value.integer());
    if (value.real() != nullptr) return PythonRepr(*value.real());
    return absl::StrCat("<", value.TypeName(), ">");
  }

 private:
  absl::Status WriteSequence(const JinjaSequence& list) {
    const bool is_tuple = list.kind == JinjaSequenceKind::kTuple;
    out_.Append(is_tuple ? "(" : "[", kModel);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_.Append(", ", kModel);
      TF_RETURN_IF_ERROR(Write(list.items[i]));
    }
    if (is_tuple && list.items.size() == 1) out_.Append(",", kModel);
    out_.Append(is_tuple ? ")" : "]", kModel);
    return absl::OkStatus();
  }
  absl::Status WriteDict(const JinjaDict& dict) {
    out_.Append("{", kModel);
    bool first = true;
    for (const auto& [key, value] : dict.members()) {
      if (!std::exchange(first, false)) out_.Append(", ", kModel);
      TF_RETURN_IF_ERROR(Write(key));
      out_.Append(": ", kModel);
      TF_RETURN_IF_ERROR(Write(value));
    }
    out_.Append("}", kModel);
    return absl::OkStatus();
  }

  JinjaBudget& budget_;
  TaggedText& out_;
};

class JsonWriter {
 public:
  JsonWriter(const JinjaJsonStyle& style, JinjaBudget& budget, TaggedText& out)
      : style_(style), budget_(budget), out_(out) {}

  absl::Status Write(const JinjaValue& value) {
    TF_RETURN_IF_ERROR(budget_.Grown(static_cast<int64_t>(out_.size())));
    if (const TaggedText* text = value.text()) return WriteText(*text);
    if (value.sequence() != nullptr && value.sequence()->kind != JinjaSequenceKind::kGenerator) {
      return WriteList(value.sequence()->items);
    }
    if (value.dict() != nullptr) return WriteDict(*value.dict());
    if (value.is_none()) return WriteWord("null");
    if (value.is_number()) return WriteWord(Number(value));
    return absl::InvalidArgumentError(absl::StrCat("Object of type ", value.TypeName(), " is not JSON serializable"));
  }

 private:
  static std::string Number(const JinjaValue& value) {
    if (value.boolean() != nullptr) return *value.boolean() ? "true" : "false";
    if (value.integer() != nullptr) return IntegerText(*value.integer());
    const double real = *value.real();
    if (std::isnan(real)) return "NaN";
    if (std::isinf(real)) return real < 0 ? "-Infinity" : "Infinity";
    return PythonRepr(real);
  }

  absl::Status WriteWord(absl::string_view word) {
    out_.Append(word, kModel);
    return absl::OkStatus();
  }
  absl::Status WriteText(const TaggedText& text) {
    TF_RETURN_IF_ERROR(budget_.Text(static_cast<int64_t>(text.size())));
    out_.Append("\"", kModel);
    AppendEscaped(
        text, [this](absl::string_view part) { return EscapeJson(part, style_.ensure_ascii); }, out_);
    out_.Append("\"", kModel);
    return absl::OkStatus();
  }
  void NewLine() {
    if (!style_.indent) return;
    out_.Append("\n", kModel);
    for (int i = 0; i < level_; ++i) out_.Append(*style_.indent);
  }
  absl::Status WriteList(const std::vector<JinjaValue>& items) {
    if (items.empty()) return WriteWord("[]");
    out_.Append("[", kModel);
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.Append(style_.item_separator);
      NewLine();
      TF_RETURN_IF_ERROR(Write(items[i]));
    }
    --level_;
    NewLine();
    return WriteWord("]");
  }
  absl::Status WriteKey(const JinjaValue& key) {
    if (key.text() != nullptr) return WriteText(*key.text());
    return WriteText(TaggedText(key.is_none() ? "null" : Number(key), kModel));
  }
  absl::Status WriteDict(const JinjaDict& dict) {
    if (dict.members().empty()) return WriteWord("{}");
    std::vector<std::pair<JinjaValue, JinjaValue>> members = dict.members();
    if (style_.sort_keys) {
      const auto all_text = [](const auto& member) { return member.first.text() != nullptr; };
      if (!std::all_of(members.begin(), members.end(), all_text)) {
        return absl::InvalidArgumentError("tojson: sort_keys needs keys that are texts");
      }
      std::sort(members.begin(), members.end(),
                [](const auto& a, const auto& b) { return a.first.text()->text() < b.first.text()->text(); });
    }
    out_.Append("{", kModel);
    ++level_;
    for (size_t i = 0; i < members.size(); ++i) {
      if (i > 0) out_.Append(style_.item_separator);
      NewLine();
      TF_RETURN_IF_ERROR(WriteKey(members[i].first));
      out_.Append(style_.key_separator);
      TF_RETURN_IF_ERROR(Write(members[i].second));
    }
    --level_;
    NewLine();
    return WriteWord("}");
  }

  const JinjaJsonStyle& style_;
  JinjaBudget& budget_;
  TaggedText& out_;
  int level_ = 0;
};

}  // namespace

std::string IntegerText(absl::int128 value) {
  if (value == 0) return "0";
  const bool negative = value < 0;
  absl::uint128 rest = negative ? -absl::uint128(value) : absl::uint128(value);
  std::string digits;
  for (; rest != 0; rest /= 10) digits += static_cast<char>('0' + static_cast<int>(rest % 10));
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

absl::StatusOr<TaggedText> ToText(const JinjaValue& value, JinjaBudget& budget) {
  if (value.text() != nullptr) return *value.text();
  if (value.is_undefined()) return TaggedText();
  return ToRepr(value, budget);
}

absl::StatusOr<TaggedText> ToRepr(const JinjaValue& value, JinjaBudget& budget) {
  TaggedText out;
  TF_RETURN_IF_ERROR(ReprWriter(budget, out).Write(value));
  return out;
}

absl::StatusOr<TaggedText> ToJson(const JinjaValue& value, const JinjaJsonStyle& style, JinjaBudget& budget) {
  TaggedText out;
  TF_RETURN_IF_ERROR(JsonWriter(style, budget, out).Write(value));
  return out;
}

}  // namespace tokenferry
