#include "runtime/text/jinja/text_ops.h"

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"

namespace tokenferry {
namespace {

using View = absl::string_view;

bool HasCharacter(const View* chars, View character) {
  if (chars == nullptr) {
    size_t pos = 0;
    return IsPythonSpace(DecodeUtf8(character, pos));
  }
  return absl::StrContains(*chars, character);
}

View LastOf(View text) { return text.substr(LastCharacter(text)); }

struct Part {
  size_t begin, end;
};

// Parts between runs of white space, none empty.
std::vector<Part> Words(View text, int64_t max_splits, TextSide from) {
  std::vector<Part> parts;
  size_t begin = 0, end = text.size();
  const auto trim = [&] {
    begin += LeadingPythonSpace(text.substr(begin, end - begin));
    end -= TrailingPythonSpace(text.substr(begin, end - begin));
  };
  for (trim(); begin < end; trim()) {
    if (max_splits-- == 0) {  // the rest is one part; its far side keeps its white space, as in Python
      parts.push_back(from == TextSide::kRight ? Part{0, end} : Part{begin, text.size()});
      break;
    }
    size_t pos = begin, last = end;
    if (from == TextSide::kRight) {
      while (last > begin && !HasCharacter(nullptr, LastOf(text.substr(begin, last - begin)))) {
        last -= LastOf(text.substr(begin, last - begin)).size();
      }
      parts.push_back({last, end});
      end = last;
    } else {
      while (pos < end && !HasCharacter(nullptr, FirstCharacter(text.substr(pos)))) {
        pos += FirstCharacter(text.substr(pos)).size();
      }
      parts.push_back({begin, pos});
      begin = pos;
    }
  }
  return parts;
}

std::vector<Part> Pieces(View text, View separator, int64_t max_splits, TextSide from) {
  std::vector<Part> parts;
  size_t begin = 0, end = text.size();
  while (max_splits-- != 0) {
    const size_t found = from == TextSide::kRight ? text.substr(0, end).rfind(separator) : text.find(separator, begin);
    if (found == View::npos) break;
    if (from == TextSide::kRight) {
      parts.push_back({found + separator.size(), end});
      end = found;
    } else {
      parts.push_back({begin, found});
      begin = found + separator.size();
    }
  }
  parts.push_back({begin, end});
  return parts;
}

bool EndsLine(char32_t c) {
  return (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

}  // namespace

TaggedText StripText(const TaggedText& text, TextSide side, const View* chars) {
  View rest = text.text();
  size_t begin = 0;
  while (side != TextSide::kRight && !rest.empty() && HasCharacter(chars, FirstCharacter(rest))) {
    const size_t size = FirstCharacter(rest).size();
    begin += size;
    rest.remove_prefix(size);
  }
  while (side != TextSide::kLeft && !rest.empty() && HasCharacter(chars, LastOf(rest))) {
    rest.remove_suffix(LastOf(rest).size());
  }
  return text.Range(begin, begin + rest.size());
}

std::vector<TaggedText> SplitText(const TaggedText& text, const View* separator, int64_t max_splits, TextSide from) {
  std::vector<Part> parts =
      separator == nullptr ? Words(text.text(), max_splits, from) : Pieces(text.text(), *separator, max_splits, from);
  if (from == TextSide::kRight) std::reverse(parts.begin(), parts.end());
  std::vector<TaggedText> out;
  out.reserve(parts.size());
  for (const Part& part : parts) out.push_back(text.Range(part.begin, part.end));
  return out;
}

std::vector<TaggedText> SplitTextLines(const TaggedText& text) {
  std::vector<TaggedText> lines;
  const View view = text.text();
  size_t begin = 0;
  for (size_t pos = 0; pos < view.size();) {
    const size_t end = pos;
    if (!EndsLine(DecodeUtf8(view, pos))) continue;
    if (view[end] == '\r' && pos < view.size() && view[pos] == '\n') ++pos;
    lines.push_back(text.Range(begin, end));
    begin = pos;
  }
  if (begin < view.size()) lines.push_back(text.Range(begin, view.size()));
  return lines;
}

TaggedText ReplaceText(const TaggedText& text, View old_text, const TaggedText& new_text, int64_t max_count) {
  TaggedText out;
  const View view = text.text();
  size_t begin = 0;
  for (size_t pos = 0; max_count-- != 0;) {
    const size_t found = view.find(old_text, pos);
    if (found == View::npos) break;
    out.AppendRange(text, begin, found);
    out.Append(new_text);
    begin = pos = found + old_text.size();
    if (!old_text.empty()) continue;
    if (pos == view.size()) break;
    pos += FirstCharacter(view.substr(pos)).size();
  }
  out.AppendRange(text, begin, view.size());
  return out;
}

TaggedText JoinTexts(const std::vector<TaggedText>& parts, const TaggedText& separator) {
  TaggedText out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out.Append(separator);
    out.Append(parts[i]);
  }
  return out;
}

TaggedText ChangeCase(const TaggedText& text, CaseRule rule) {
  TaggedText out;
  size_t pos = 0;
  bool in_word = false;
  for (const TaggedText::Run& run : text.runs()) {
    std::string changed;
    while (pos < run.end) {
      const bool first = pos == 0;
      const char32_t c = DecodeUtf8(text.text(), pos);
      LetterCase letter_case = LetterCase::kLower;
      if (rule == CaseRule::kUpper) letter_case = LetterCase::kUpper;
      if (rule == CaseRule::kCapitalize && first) letter_case = LetterCase::kTitle;
      if (rule == CaseRule::kTitle && !in_word) letter_case = LetterCase::kTitle;
      if (rule == CaseRule::kSwap) {
        std::string upper;
        AppendCase(c, LetterCase::kUpper, upper);
        size_t unused = 0;
        letter_case = DecodeUtf8(upper, unused) == c ? LetterCase::kLower : LetterCase::kUpper;
      }
      AppendCase(c, letter_case, changed);
      in_word = IsCased(c);
    }
    out.Append(changed, run.origin);
  }
  return out;
}

TaggedText SliceText(const TaggedText& text, int64_t start, int64_t stop, int64_t step) {
  const View view = text.text();
  if (step == 1) {
    const size_t begin = ByteOfCharacter(view, start);
    return text.Range(begin, begin + ByteOfCharacter(view.substr(begin), std::max<int64_t>(stop - start, 0)));
  }
  std::vector<size_t> begins;
  for (size_t pos = 0; pos < view.size(); pos += FirstCharacter(view.substr(pos)).size()) begins.push_back(pos);
  begins.push_back(view.size());
  TaggedText out;
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
    out.AppendRange(text, begins[static_cast<size_t>(i)], begins[static_cast<size_t>(i) + 1]);
  }
  return out;
}

}  // namespace tokenferry
