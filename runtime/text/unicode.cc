#include "runtime/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

struct LeadByte {
  int num_bytes;      // of the whole sequence; 0: no sequence starts like this
  uint8_t low, high;  // what the second byte may be (Unicode table 3-7)
};

LeadByte Classify(uint8_t b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xC2) return {0, 0, 0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b == 0xE0) return {3, 0xA0, 0xBF};
  if (b == 0xED) return {3, 0x80, 0x9F};
  if (b < 0xF0) return {3, 0x80, 0xBF};
  if (b == 0xF0) return {4, 0x90, 0xBF};
  if (b < 0xF4) return {4, 0x80, 0xBF};
  if (b == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

}  // namespace

size_t AppendValidUtf8(absl::string_view bytes, Utf8End end, std::string& out) {
  size_t pos = 0;
  size_t copied = 0;  // everything before is in `out`
  while (pos < bytes.size()) {
    LeadByte lead = Classify(static_cast<uint8_t>(bytes[pos]));
    size_t next = pos + 1;
    int have = lead.num_bytes == 0 ? 0 : 1;
    for (; have > 0 && have < lead.num_bytes && next < bytes.size(); ++have, ++next) {
      uint8_t b = static_cast<uint8_t>(bytes[next]);
      if (b < (have == 1 ? lead.low : 0x80) || b > (have == 1 ? lead.high : 0xBF)) break;
    }
    if (have > 0 && have == lead.num_bytes) {
      pos = next;
      continue;
    }
    out.append(bytes.data() + copied, pos - copied);
    copied = pos;
    if (have > 0 && next == bytes.size() && end == Utf8End::kMore) return pos;
    out.append(kReplacement.data(), kReplacement.size());
    pos = copied = next;
  }
  out.append(bytes.data() + copied, pos - copied);
  return pos;
}

bool IsValidUtf8(absl::string_view bytes) {
  std::string valid;
  AppendValidUtf8(bytes, Utf8End::kLast, valid);
  return valid == bytes;
}

size_t CharacterEnd(absl::string_view text, size_t pos) {
  for (++pos; pos < text.size() && IsContinuation(text[pos]);) ++pos;
  return pos;
}

size_t LastCharacter(absl::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && IsContinuation(text[pos])) --pos;
  return pos;
}

char32_t DecodeUtf8(absl::string_view text, size_t& pos) {
  utf8proc_int32_t c = 0;
  utf8proc_ssize_t n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + pos,
                                        static_cast<utf8proc_ssize_t>(text.size() - pos), &c);
  TF_CHECK(n > 0);
  pos += static_cast<size_t>(n);
  return static_cast<char32_t>(c);
}

void AppendUtf8(char32_t c, std::string& out) {
  utf8proc_uint8_t buffer[4];
  utf8proc_ssize_t n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), buffer);
  out.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(n));
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsWord(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;  // Join_Control
  // Other_Alphabetic outside of letters and marks: the circled and squared letters.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
      (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

size_t LeadingWhiteSpace(absl::string_view text) {
  size_t end = 0;
  for (size_t pos = 0; pos < text.size() && IsWhiteSpace(DecodeUtf8(text, pos));) end = pos;
  return end;
}

size_t TrailingWhiteSpace(absl::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    size_t last = LastCharacter(text.substr(0, start));
    size_t pos = last;
    if (!IsWhiteSpace(DecodeUtf8(text, pos))) break;
    start = last;
  }
  return text.size() - start;
}

bool StartsWithWord(absl::string_view text) {
  size_t pos = 0;
  return !text.empty() && IsWord(DecodeUtf8(text, pos));
}

bool EndsWithWord(absl::string_view text) {
  if (text.empty()) return false;
  size_t pos = LastCharacter(text);
  return IsWord(DecodeUtf8(text, pos));
}

char32_t LowercaseOf(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }

std::string NormalizeUnicode(absl::string_view text, UnicodeForm form) {
  const bool composes = form == UnicodeForm::kC || form == UnicodeForm::kKC;
  const bool compatible = form == UnicodeForm::kKC || form == UnicodeForm::kKD;
  // Nothing below U+0300 (first byte 0xCC) composes or decomposes in form C; nothing of ASCII in any.
  const uint8_t first_changed = form == UnicodeForm::kC ? 0xCC : 0x80;
  if (std::all_of(text.begin(), text.end(), [=](char b) { return static_cast<uint8_t>(b) < first_changed; })) {
    return std::string(text);
  }
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    constexpr utf8proc_ssize_t kMaxParts = 32;  // the longest decomposition, of U+FDFA, has 18
    utf8proc_int32_t parts[kMaxParts];
    utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(DecodeUtf8(text, pos)), parts, kMaxParts,
                                                 options, /*last_boundclass=*/nullptr);
    TF_CHECK(n >= 0 && n <= kMaxParts);
    points.insert(points.end(), parts, parts + n);
  }
  // Canonical ordering. utf8proc's own (in utf8proc_decompose) is an insertion sort: quadratic in a run of marks.
  auto mark_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto it = points.begin(); it != points.end();) {
    auto first = std::find_if(it, points.end(), [&](auto c) { return mark_class(c) != 0; });
    it = std::find_if(first, points.end(), [&](auto c) { return mark_class(c) == 0; });
    std::stable_sort(first, it, [&](auto a, auto b) { return mark_class(a) < mark_class(b); });
  }
  auto n = static_cast<utf8proc_ssize_t>(points.size());
  if (composes) n = utf8proc_normalize_utf32(points.data(), n, options);
  TF_CHECK(n >= 0);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < n; ++i) AppendUtf8(static_cast<char32_t>(points[i]), out);
  return out;
}

}  // namespace tokenferry
