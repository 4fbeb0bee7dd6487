#include "runtime/text/jinja/python_text.h"

#include <utf8proc.h>

#include <charconv>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace tokenferry {
namespace {

bool IsUtf8Continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

// str.isprintable, of one character.
bool IsPrintable(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

}  // namespace

bool IsPythonSpace(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

bool IsPythonLetter(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsPythonDecimal(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND; }

bool IsPythonDigit(char32_t c) {
  const bool is_script = c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
                         (c >= 0x2080 && c <= 0x2089);
  return is_script || IsPythonDecimal(c);
}

bool IsPythonNumeric(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPythonAlphanumeric(char32_t c) { return IsPythonLetter(c) || IsPythonNumeric(c); }

size_t LeadingPythonSpace(absl::string_view text) {
  size_t end = 0;
  for (size_t pos = 0; pos < text.size() && IsPythonSpace(DecodeUtf8(text, pos));) end = pos;
  return end;
}

size_t TrailingPythonSpace(absl::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    const size_t last = LastCharacter(text.substr(0, start));
    size_t pos = last;
    if (!IsPythonSpace(DecodeUtf8(text, pos))) break;
    start = last;
  }
  return text.size() - start;
}

absl::string_view FirstCharacter(absl::string_view text) { return text.substr(0, CharacterEnd(text, 0)); }

int64_t NumCharacters(absl::string_view text) {
  int64_t count = 0;
  for (const char byte : text) count += IsUtf8Continuation(byte) ? 0 : 1;
  return count;
}

size_t ByteOfCharacter(absl::string_view text, int64_t index) {
  for (size_t pos = 0; pos < text.size(); ++pos) {
    if (!IsUtf8Continuation(text[pos]) && index-- == 0) return pos;
  }
  return text.size();
}

void AppendCase(char32_t c, LetterCase letter_case, std::string& out) {
  const auto point = static_cast<utf8proc_int32_t>(c);
  constexpr char32_t kSharpS = 0xDF;
  switch (letter_case) {
    case LetterCase::kLower:
      return AppendUtf8(static_cast<char32_t>(utf8proc_tolower(point)), out);
    case LetterCase::kUpper:
      if (c == kSharpS) return static_cast<void>(out += "SS");
      return AppendUtf8(static_cast<char32_t>(utf8proc_toupper(point)), out);
    case LetterCase::kTitle:
      if (c == kSharpS) return static_cast<void>(out += "Ss");
      return AppendUtf8(static_cast<char32_t>(utf8proc_totitle(point)), out);
  }
}

bool IsCased(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:
      return false;
  }
}

std::string PythonRepr(absl::string_view text) {
  const char quote = absl::StrContains(text, '\'') && !absl::StrContains(text, '"') ? '"' : '\'';
  std::string out(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, pos);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (IsPrintable(c)) {
      out.append(text.data() + begin, pos - begin);
    } else if (c < 0x100) {
      absl::StrAppendFormat(&out, "\\x%02x", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<uint32_t>(c));
    } else {
      absl::StrAppendFormat(&out, "\\U%08x", static_cast<uint32_t>(c));
    }
  }
  out += quote;
  return out;
}

std::string PythonRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  absl::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  (void)absl::SimpleAtoi(absl::StripPrefix(text.substr(e + 1), "+"), &exponent);
  if (exponent < -4 || exponent >= 16) {  // repr's 'r' format
    return absl::StrFormat("%se%c%02d", text.substr(0, e), exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  const auto fixed_end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed).ptr;
  std::string fixed(buffer, static_cast<size_t>(fixed_end - buffer));
  if (!absl::StrContains(fixed, '.')) fixed += ".0";
  return fixed;
}

}  // namespace tokenferry
