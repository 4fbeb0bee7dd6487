#include "runtime/serve/grammar/regex_syntax.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/io/foreign_text.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

using Kind = Regex::Kind;

constexpr CodePointRange kDigits[] = {{'0', '9'}};
constexpr CodePointRange kWord[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
// ECMA-262, WhiteSpace and LineTerminator.
constexpr CodePointRange kSpaces[] = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                                      {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                      {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
constexpr CodePointRange kLineEnds[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

CodePointSet SetOf(absl::Span<const CodePointRange> ranges) { return {ranges.begin(), ranges.end()}; }
CodePointSet AllBut(absl::Span<const CodePointRange> ranges) { return Complement(SetOf(ranges)); }

Regex Character(CodePointSet set) { return {Kind::kCharacter, std::move(set), {}, 0, 0}; }

class Parser {
 public:
  explicit Parser(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<Regex> Parse() {
    TF_ASSIGN_OR_RETURN(Regex regex, Alternatives(0));
    if (pos_ < pattern_.size()) return Error("')' closes no group");
    return regex;
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("pattern: ", what, ", at '", Excerpt(pattern_.substr(pos_)), "'"));
  }
  bool At(absl::string_view word) const { return absl::StartsWith(pattern_.substr(pos_), word); }
  bool Take(absl::string_view word) {
    if (!At(word)) return false;
    pos_ += word.size();
    return true;
  }
  bool AtEnd() const { return pos_ >= pattern_.size(); }
  char32_t Next() { return DecodeUtf8(pattern_, pos_); }

  absl::StatusOr<Regex> Alternatives(int depth) {
    if (depth > kMaxRegexDepth) return Error(absl::StrCat("groups are nested more than ", kMaxRegexDepth, " deep"));
    Regex all{Kind::kAlternatives, {}, {}, 0, 0};
    do {
      TF_ASSIGN_OR_RETURN(all.parts.emplace_back(), Sequence(depth));
    } while (Take("|"));
    return all;
  }

  absl::StatusOr<Regex> Sequence(int depth) {
    Regex sequence;
    while (!AtEnd() && !At("|") && !At(")")) {
      if (Take("^")) {
        sequence.parts.push_back({Kind::kTextBegin, {}, {}, 0, 0});
      } else if (Take("$")) {
        sequence.parts.push_back({Kind::kTextEnd, {}, {}, 0, 0});
      } else {
        TF_ASSIGN_OR_RETURN(Regex part, Atom(depth));
        TF_ASSIGN_OR_RETURN(part, Repeated(std::move(part)));
        sequence.parts.push_back(std::move(part));
      }
    }
    return sequence;
  }

  absl::StatusOr<Regex> Atom(int depth) {
    if (At("*") || At("+") || At("?") || At("{")) return Error("there is nothing to repeat");
    if (Take(".")) return Character(AllBut(kLineEnds));
    if (At("(")) return Group(depth);
    if (Take("[")) return Class();
    if (!At("\\")) {
      const char32_t c = Next();
      return Character({{c, c}});
    }
    if (At("\\b") || At("\\B")) return Error("\\b and \\B are not supported");
    if (At("\\k") || (pos_ + 1 < pattern_.size() && pattern_[pos_ + 1] >= '1' && pattern_[pos_ + 1] <= '9')) {
      return Error("backreferences are not supported");
    }
    TF_ASSIGN_OR_RETURN(CodePointSet set, Escape());
    return Character(std::move(set));
  }

  absl::StatusOr<Regex> Group(int depth) {
    for (const absl::string_view look : {"(?=", "(?!", "(?<=", "(?<!"}) {
      if (At(look)) return Error(absl::StrCat("lookaround, '", look, "', is not supported"));
    }
    Take("(");
    if (Take("?<")) {
      const size_t end = pattern_.find('>', pos_);
      if (end == absl::string_view::npos || end == pos_) return Error("a group's name has no end");
      pos_ = end + 1;
    } else if (At("?") && !Take("?:")) {
      return Error("groups with flags are not supported");
    }
    TF_ASSIGN_OR_RETURN(Regex inner, Alternatives(depth + 1));
    if (!Take(")")) return Error("a group is not closed");
    return inner;
  }

  // A number of times, if there is one.
  absl::StatusOr<std::optional<int>> Count() {
    const size_t begin = pos_;
    while (!AtEnd() && absl::ascii_isdigit(static_cast<unsigned char>(pattern_[pos_]))) ++pos_;
    if (pos_ == begin) return std::nullopt;
    int count = 0;
    const bool fits = absl::SimpleAtoi(pattern_.substr(begin, pos_ - begin), &count) && count <= kMaxRegexCount;
    if (!fits) return Error(absl::StrCat("repeats more than ", kMaxRegexCount, " times"));
    return count;
  }

  absl::StatusOr<Regex> Repeated(Regex part) {
    int least = 0, most = -1;
    if (Take("?")) {
      most = 1;
    } else if (Take("+")) {
      least = 1;
    } else if (Take("{")) {
      TF_ASSIGN_OR_RETURN(const auto low, Count());
      TF_ASSIGN_OR_RETURN(const auto high, Take(",") ? Count() : low);
      if (!low || !Take("}")) return Error("a count is {m}, {m,} or {m,n}; '{' itself is written '\\{'");
      least = *low;
      most = high.value_or(-1);
      if (high && *high < *low) return Error("the larger count comes first");
    } else if (!Take("*")) {
      return part;
    }
    Take("?");  // lazy: the same texts match
    Regex repeat{Kind::kRepeat, {}, {}, least, most};
    repeat.parts.push_back(std::move(part));
    return repeat;
  }

  absl::StatusOr<Regex> Class() {
    const bool negated = Take("^");
    CodePointSet set;
    while (!Take("]")) {
      if (AtEnd()) return Error("a class is not closed");
      TF_ASSIGN_OR_RETURN(const CodePointSet first, ClassItem());
      const bool is_range = At("-") && !At("-]") && pos_ + 1 < pattern_.size();
      if (!is_range) {
        set.insert(set.end(), first.begin(), first.end());
        continue;
      }
      Take("-");
      TF_ASSIGN_OR_RETURN(const CodePointSet last, ClassItem());
      if (!IsSingle(first) || !IsSingle(last)) return Error("a range ends with a character, not with a class");
      if (first[0].first > last[0].first) return Error("a range's ends are in the wrong order");
      set.push_back({first[0].first, last[0].first});
    }
    if (!negated && set.empty()) return Error("an empty class matches nothing");
    CodePointSet others = Complement(std::move(set));
    return Character(negated ? std::move(others) : Complement(std::move(others)));  // sorted, each once
  }

  static bool IsSingle(const CodePointSet& set) { return set.size() == 1 && set[0].first == set[0].last; }

  absl::StatusOr<CodePointSet> ClassItem() {
    if (Take("\\b")) return CodePointSet{{'\b', '\b'}};
    if (At("\\")) return Escape();
    if (AtEnd()) return Error("a class is not closed");
    const char32_t c = Next();
    return CodePointSet{{c, c}};
  }

  // A number of exactly `count` digits.
  absl::StatusOr<char32_t> Hex(size_t count) {
    const absl::string_view digits = pattern_.substr(pos_, count);
    const auto is_digit = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
    uint32_t value = 0;
    const bool fits = count > 0 && count < 8 && digits.size() == count && absl::c_all_of(digits, is_digit) &&
                      absl::SimpleHexAtoi(digits, &value) && value <= 0x10FFFF;
    if (!fits) return Error("the code of a character is \\xHH, \\uHHHH or \\u{H..}");
    pos_ += count;
    return value;
  }

  // Behind \u.
  absl::StatusOr<char32_t> UnicodeCode() {
    char32_t code = 0;
    if (Take("{")) {
      const size_t end = pattern_.find('}', pos_);
      TF_ASSIGN_OR_RETURN(code, Hex(end == absl::string_view::npos ? 0 : end - pos_));
      Take("}");
    } else {
      TF_ASSIGN_OR_RETURN(code, Hex(4));
    }
    const bool is_high = code >= 0xD800 && code <= 0xDBFF;
    if (is_high && Take("\\u")) {
      TF_ASSIGN_OR_RETURN(const char32_t low, Hex(4));
      if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code >= 0xD800 && code <= 0xDFFF) return Error("half of a surrogate pair is no character");
    return code;
  }

  absl::StatusOr<CodePointSet> Escape() {
    const size_t begin = pos_;
    Take("\\");
    if (AtEnd()) return Error("a backslash ends the pattern");
    const char32_t kind = Next();
    const auto single = [](char32_t c) { return CodePointSet{{c, c}}; };
    switch (kind) {
      case 'd':
        return SetOf(kDigits);
      case 'D':
        return AllBut(kDigits);
      case 'w':
        return SetOf(kWord);
      case 'W':
        return AllBut(kWord);
      case 's':
        return SetOf(kSpaces);
      case 'S':
        return AllBut(kSpaces);
      case 'x':
      case 'u': {
        TF_ASSIGN_OR_RETURN(const char32_t code, kind == 'x' ? Hex(2) : UnicodeCode());
        return single(code);
      }
      case 'c': {
        const bool is_letter = !AtEnd() && absl::ascii_isalpha(static_cast<unsigned char>(pattern_[pos_]));
        if (!is_letter) return Error("\\c needs a letter");
        return single(Next() % 32);
      }
      default:
        break;
    }
    constexpr absl::string_view kNames = "nrtfv0", kNamed("\n\r\t\f\v\0", 6);
    const size_t name = kind < 0x80 ? kNames.find(static_cast<char>(kind)) : kNames.npos;
    if (name != kNames.npos) return single(static_cast<unsigned char>(kNamed[name]));
    if (kind >= 0x80 || !absl::ascii_isalnum(static_cast<unsigned char>(kind))) return single(kind);
    pos_ = begin;
    return Error("this escape is not supported");
  }

  const absl::string_view pattern_;
  size_t pos_ = 0;
};

}  // namespace

absl::StatusOr<Regex> ParseRegex(absl::string_view pattern) { return Parser(pattern).Parse(); }

}  // namespace tokenferry
