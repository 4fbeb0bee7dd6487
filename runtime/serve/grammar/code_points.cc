#include "runtime/serve/grammar/code_points.h"

#include <algorithm>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

using Node = AutomatonBuilder::Node;

constexpr char32_t kLast = 0x10FFFF, kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF, kFirstPlain = 0x20;

uint8_t ByteOf(char c) { return static_cast<uint8_t>(c); }

// What is in [first, last] of the set.
CodePointSet Within(const CodePointSet& set, char32_t first, char32_t last) {
  CodePointSet within;
  for (const CodePointRange& range : set) {
    const CodePointRange part = {std::max(range.first, first), std::min(range.last, last)};
    if (part.first <= part.last) within.push_back(part);
  }
  return within;
}

// Characters whose encodings have the same length. Split until all bytes of an encoding but the first may be chosen
// independently of each other, or are the same.
void AppendSameLength(Node at, CodePointRange range, int num_bytes, Node to, AutomatonBuilder& builder) {
  for (int i = 1; i < num_bytes; ++i) {
    const char32_t low_bits = (char32_t{1} << (6 * i)) - 1;
    if ((range.first & ~low_bits) == (range.last & ~low_bits)) continue;
    const bool from_start = (range.first & low_bits) == 0, to_end = (range.last & low_bits) == low_bits;
    if (from_start && to_end) continue;
    const char32_t end = from_start ? (range.last & ~low_bits) - 1 : (range.first | low_bits);
    AppendSameLength(at, {range.first, end}, num_bytes, to, builder);
    return AppendSameLength(at, {end + 1, range.last}, num_bytes, to, builder);
  }
  std::string first, last;
  AppendUtf8(range.first, first);
  AppendUtf8(range.last, last);
  for (int i = 0; i + 1 < num_bytes; ++i) at = builder.Byte(at, ByteOf(first[i]), ByteOf(last[i]));
  builder.Byte(at, ByteOf(first.back()), ByteOf(last.back()), to);
}

void AppendPlain(Node at, const CodePointSet& set, Node to, AutomatonBuilder& builder) {
  struct Length {
    char32_t first, last;
    int num_bytes;
  };
  constexpr Length kLengths[] = {
      {kFirstPlain, '"' - 1, 1},       {'"' + 1, '\\' - 1, 1},          {'\\' + 1, 0x7F, 1}, {0x80, 0x7FF, 2},
      {0x800, kFirstSurrogate - 1, 3}, {kLastSurrogate + 1, 0xFFFF, 3}, {0x10000, kLast, 4}};
  for (const Length& length : kLengths) {
    for (const CodePointRange& range : Within(set, length.first, length.last)) {
      AppendSameLength(at, range, length.num_bytes, to, builder);
    }
  }
}

bool Contains(const CodePointSet& set, char32_t c) { return !Within(set, c, c).empty(); }

void AppendEscapes(Node at, const CodePointSet& set, Node to, AutomatonBuilder& builder) {
  if (Within(set, 0, kFirstPlain - 1).empty() && !Contains(set, '"') && !Contains(set, '\\')) return;
  constexpr absl::string_view kShort = "\"\\\b\f\n\r\t", kWritten = "\"\\bfnrt";
  const Node escape = builder.Byte(at, '\\', '\\'), code = builder.Text(escape, "u00");
  for (size_t i = 0; i < kShort.size(); ++i) {
    if (Contains(set, ByteOf(kShort[i]))) builder.Byte(escape, ByteOf(kWritten[i]), ByteOf(kWritten[i]), to);
  }
  for (char32_t high = 0; high < 2; ++high) {
    const Node digit = builder.Byte(code, ByteOf('0' + static_cast<char>(high)), ByteOf('0' + static_cast<char>(high)));
    for (char32_t low = 0; low < 16; ++low) {
      const char32_t c = high * 16 + low;
      if (!Contains(set, c) || kShort.find(static_cast<char>(c)) != kShort.npos) continue;
      const uint8_t byte = ByteOf("0123456789abcdef"[low]);
      builder.Byte(digit, byte, byte, to);
    }
  }
}

}  // namespace

CodePointSet Complement(CodePointSet set) {
  std::sort(set.begin(), set.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  CodePointSet rest;
  char32_t next = 0;  // the first that is not known to be in the set
  for (const CodePointRange& range : set) {
    if (range.first > next) rest.push_back({next, range.first - 1});
    next = std::max<char32_t>(next, range.last + 1);
  }
  if (next <= kLast) rest.push_back({next, kLast});
  return rest;
}

void AppendCharacter(Node at, const CodePointSet& set, Node to, AutomatonBuilder& builder) {
  AppendPlain(at, set, to, builder);
  AppendEscapes(at, set, to, builder);
}

}  // namespace tokenferry
