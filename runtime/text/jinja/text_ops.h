// What Python's methods of str do, on text whose bytes keep their origin.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/text/jinja/python_text.h"
#include "runtime/text/tagged_text.h"

namespace tokenferry {

enum class TextSide : uint8_t { kLeft, kRight, kBoth };

// Without the characters of `chars` at its ends; without white space where `chars` is null.
TaggedText StripText(const TaggedText& text, TextSide side, const absl::string_view* chars);

// The parts between `separator` (not empty), or between runs of white space where it is null. At most `max_splits`
// times, from the left or from the right; -1: as often as it is there.
std::vector<TaggedText> SplitText(const TaggedText& text, const absl::string_view* separator, int64_t max_splits,
                                  TextSide from);
std::vector<TaggedText> SplitTextLines(const TaggedText& text);  // str.splitlines

// `max_count` of them, -1: all. An empty `old_text` stands before every character and at the end.
TaggedText ReplaceText(const TaggedText& text, absl::string_view old_text, const TaggedText& new_text,
                       int64_t max_count);

TaggedText JoinTexts(const std::vector<TaggedText>& parts, const TaggedText& separator);

// str.lower, upper, capitalize (the first character in title case, the rest in lower case), title and swapcase.
enum class CaseRule : uint8_t { kLower, kUpper, kCapitalize, kTitle, kSwap };
TaggedText ChangeCase(const TaggedText& text, CaseRule rule);

// Characters [start, stop) by `step`, as in text[start:stop:step], where 0 <= start and so on are already resolved:
// the characters with the indices start, start + step, .. as long as they lie before (behind, for a negative step)
// stop.
TaggedText SliceText(const TaggedText& text, int64_t start, int64_t stop, int64_t step);

}  // namespace tokenferry
