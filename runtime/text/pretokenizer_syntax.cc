#include "runtime/text/pretokenizer_syntax.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kSpace =
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr absl::string_view kNotSpace =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : rest_(pattern), size_(pattern.size()) {}

  absl::StatusOr<std::string> Run() {
    while (!rest_.empty()) TF_RETURN_IF_ERROR(in_class_ ? ClassItem() : Item());
    if (in_class_) return Refuse("a class without its ]");
    return std::move(out_);
  }

 private:
  absl::Status Refuse(absl::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat("regular expression uses ", what, " at byte ", size_ - rest_.size(), ", which is not supported"));
  }

  void Take(size_t num_bytes) {
    out_.append(rest_.data(), num_bytes);
    rest_.remove_prefix(num_bytes);
  }

  absl::Status Item() {
    switch (rest_[0]) {
      case '\\':
        return Escape();
      case '[':
        return OpenClass();
      case '(':
        return OpenGroup();
      case '*':
      case '+':
        Take(1);
        if (absl::StartsWith(rest_, "?") || absl::StartsWith(rest_, "+")) Take(1);
        out_ += "(?C)";
        return absl::OkStatus();
      case '{':
        return Counted();
      default:
        Take(1);
        return absl::OkStatus();
    }
  }

  // [A&&[^B]]: a character of A, if it is one of the others too. PCRE2 has no intersections.
  absl::StatusOr<bool> Intersection() {
    size_t depth = 0, end = 1, part = 1;
    std::vector<absl::string_view> parts;
    for (; end < rest_.size(); ++end) {
      if (rest_[end] == '\\') {
        ++end;
      } else if (rest_[end] == '[') {
        ++depth;
      } else if (rest_[end] == ']' && depth-- == 0) {
        break;
      } else if (depth == 0 && absl::StartsWith(rest_.substr(end), "&&")) {
        parts.push_back(rest_.substr(part, end - part));
        part = end + 2;
        ++end;
      }
    }
    if (parts.empty() || end >= rest_.size()) return false;
    parts.push_back(rest_.substr(part, end - part));
    if (absl::StartsWith(parts[0], "^")) return Refuse("a negated class intersection (&&)");
    out_ += "(?:";
    for (size_t i = parts.size(); i-- > 0;) {
      const bool is_class = absl::StartsWith(parts[i], "[");
      TF_ASSIGN_OR_RETURN(const std::string translated,
                          TranslateRegex(is_class ? std::string(parts[i]) : absl::StrCat("[", parts[i], "]")));
      absl::StrAppend(&out_, i > 0 ? absl::StrCat("(?=", translated, ")") : translated);
    }
    out_ += ")";
    rest_.remove_prefix(end + 1);
    return true;
  }

  absl::Status OpenClass() {
    TF_ASSIGN_OR_RETURN(const bool was_intersection, Intersection());
    if (was_intersection) return absl::OkStatus();
    Take(1);
    if (absl::StartsWith(rest_, "^")) Take(1);
    if (absl::StartsWith(rest_, "]")) return Refuse("an unescaped ] at the start of a class");
    in_class_ = true;
    return absl::OkStatus();
  }

  absl::Status ClassItem() {
    if (rest_[0] == '[') return Refuse("a class inside a class");
    if (absl::StartsWith(rest_, "&&")) return Refuse("a class intersection (&&)");
    if (rest_[0] == '\\') return Escape();
    if (rest_[0] == ']') in_class_ = false;
    Take(1);
    return absl::OkStatus();
  }

  absl::Status OpenGroup() {
    for (absl::string_view kind : {"(?:", "(?i:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (absl::StartsWith(rest_, kind)) {
        Take(kind.size());
        return absl::OkStatus();
      }
    }
    if (absl::StartsWith(rest_, "(?")) return Refuse("a group of the kind (?");
    if (absl::StartsWith(rest_, "(*")) return Refuse("(*");
    Take(1);
    return absl::OkStatus();
  }

  absl::Status Counted() {  // {n} {n,} {n,m}
    size_t end = 1;
    while (end < rest_.size() && absl::ascii_isdigit(rest_[end])) ++end;
    bool ok = end > 1;
    if (ok && end < rest_.size() && rest_[end] == ',') {
      for (++end; end < rest_.size() && absl::ascii_isdigit(rest_[end]);) ++end;
    }
    if (!ok || end >= rest_.size() || rest_[end] != '}') return Refuse("a { that does not begin {n}, {n,} or {n,m}");
    Take(end + 1);
    if (absl::StartsWith(rest_, "+")) return Refuse("+ behind }");
    if (absl::StartsWith(rest_, "?")) Take(1);
    out_ += "(?C)";
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (rest_.size() < 2) return Refuse("a \\ at the end");
    char c = rest_[1];
    if (c == 's' || c == 'S') {
      if (in_class_ && rest_.size() > 3 && rest_[2] == '-' && rest_[3] != ']')
        return Refuse("a range that starts at \\s");
      rest_.remove_prefix(2);
      absl::string_view set = c == 's' ? kSpace : kNotSpace;
      absl::StrAppend(&out_, in_class_ ? "" : "[", set, in_class_ ? "" : "]");
      return absl::OkStatus();
    }
    if (c == 'u') return CodePoint();
    absl::string_view known = in_class_ ? "dDpPnrtfaex" : "dDpPnrtfaexAzZ";
    if (!absl::ascii_ispunct(c) && !absl::StrContains(known, c)) {
      return Refuse(absl::ascii_isprint(c) ? absl::StrCat("\\", absl::string_view(&c, 1)) : "an unusual \\");
    }
    Take(2);
    if ((c == 'p' || c == 'P' || c == 'x') && absl::StartsWith(rest_, "{")) {
      const size_t end = rest_.find('}');
      if (end == absl::string_view::npos) return Refuse("a { without its }");
      // A name longer than those of categories is a script. PCRE2 would take the characters that it shares with others
      // too.
      constexpr size_t kLongestCategory = 2;
      const absl::string_view name = rest_.substr(1, end - 1);
      if (c != 'x' && name.size() > kLongestCategory && absl::ascii_isalpha(name[0])) {
        absl::StrAppend(&out_, "{sc:", name, "}");
        rest_.remove_prefix(end + 1);
      } else {
        Take(end + 1);
      }
    } else if (c == 'p' || c == 'P') {
      return Refuse("\\p without {");
    }
    return absl::OkStatus();
  }

  absl::Status CodePoint() {  // \uHHHH
    absl::string_view hex = rest_.substr(2, 4);
    if (hex.size() < 4 || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit))
      return Refuse("a \\u without 4 digits");
    absl::StrAppend(&out_, "\\x{", hex, "}");
    rest_.remove_prefix(6);
    return absl::OkStatus();
  }

  absl::string_view rest_;
  size_t size_;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern) { return Translator(pattern).Run(); }

std::string QuoteRegex(absl::string_view literal) {
  std::string out;
  for (char c : literal) {
    if (static_cast<unsigned char>(c) >= 0x80 || absl::ascii_isalnum(c)) {
      out += c;
    } else {
      absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(c));
    }
  }
  return out;
}

}  // namespace tokenferry
