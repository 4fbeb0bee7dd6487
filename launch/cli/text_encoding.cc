#include "launch/cli/text_encoding.h"

#include <utf8proc.h>

#include <cstdint>

#include "absl/strings/match.h"

namespace tokenferry {
namespace {

constexpr unsigned char kLow = 9;  // below the control characters that texts have: tab, newline

bool IsUtf8(absl::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t n = utf8proc_iterate(bytes, left, &c);
    if (n < 1) return false;
    bytes += n, left -= n;
  }
  return true;
}

// Whether all 16-bit units make sense as text: pairs of surrogates, no control characters but white space; and white
// space or the punctuation of East Asia somewhere, which pairs of other bytes hardly look like.
bool ReadsAsUtf16(absl::string_view text, int high_byte) {
  bool in_pair = false, has_punctuation = false;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    const auto byte = [&](size_t j) { return uint32_t{static_cast<unsigned char>(text[i + j])}; };
    const uint32_t unit = byte(high_byte) << 8 | byte(1 - high_byte);
    const bool is_lead = unit >= 0xD800 && unit < 0xDC00, is_trail = unit >= 0xDC00 && unit < 0xE000;
    if (is_trail != in_pair || unit < kLow || unit >= 0xFFFE) return false;
    in_pair = is_lead;
    has_punctuation |= unit == ' ' || unit == '\n' || unit == '\r' || (unit >= 0x3000 && unit < 0x3040) ||
                       (unit >= 0xFF00 && unit < 0xFF10);
  }
  return has_punctuation && !in_pair && text.size() % 2 == 0;
}

}  // namespace

absl::string_view WideEncoding(absl::string_view text) {
  using absl::StartsWith;
  if (StartsWith(text, absl::string_view("\xFF\xFE\0\0", 4)) ||
      StartsWith(text, absl::string_view("\0\0\xFE\xFF", 4))) {
    return "UTF-32";
  }
  if (StartsWith(text, "\xFF\xFE") || StartsWith(text, "\xFE\xFF")) return "UTF-16";
  if (text.size() < 4 || text.size() % 2 != 0) return "";
  // The high bytes of most scripts' characters are low numbers (Latin 0, Cyrillic 4, Arabic 6), and no text has many of
  // those otherwise. So nearly all bytes in the places of high bytes are low, and few in the places of low bytes.
  size_t low[4] = {0, 0, 0, 0};
  bool has_low = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_low = static_cast<unsigned char>(text[i]) < kLow;
    low[i % 4] += is_low;
    has_low |= is_low;
  }
  const size_t quarter = text.size() / 4, half = text.size() / 2;
  const auto mostly = [](size_t count, size_t of) { return 10 * count >= 9 * of; };
  const auto rarely = [](size_t count, size_t of) { return 10 * count <= of; };
  if (text.size() % 4 == 0 && text.size() > 4) {
    if (mostly(low[2] + low[3], half) && rarely(low[0], quarter)) return "UTF-32LE";
    if (mostly(low[0] + low[1], half) && rarely(low[3], quarter)) return "UTF-32BE";
  }
  if (mostly(low[1] + low[3], half) && rarely(low[0] + low[2], half)) return "UTF-16LE";
  if (mostly(low[0] + low[2], half) && rarely(low[1] + low[3], half)) return "UTF-16BE";
  // Scripts whose high bytes are any: what is no UTF-8, has bytes that no text of single bytes has, and reads well.
  if (!has_low || IsUtf8(text)) return "";
  if (ReadsAsUtf16(text, 1)) return "UTF-16LE";
  return ReadsAsUtf16(text, 0) ? "UTF-16BE" : "";
}

}  // namespace tokenferry
