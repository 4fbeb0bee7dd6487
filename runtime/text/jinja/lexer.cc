#include "runtime/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "core/io/foreign_text.h"
#include "core/io/json_text.h"
#include "runtime/text/jinja/python_text.h"

namespace tokenferry {
namespace {

// The longest first: the first that fits is the operator.
constexpr absl::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "<",
                                            ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ".", ":", "|", ",", ";"};

bool IsNameStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool IsNamePart(char c) { return absl::ascii_isalnum(c) || c == '_'; }

class Lexer {
 public:
  explicit Lexer(const JinjaSource& source) : source_(source), text_(source.text()) {}

  absl::StatusOr<std::vector<JinjaToken>> Run() {
    while (pos_ < text_.size()) TF_RETURN_IF_ERROR(Root());
    Add(JinjaTokenKind::kEnd, pos_, "");
    return std::move(tokens_);
  }

 private:
  absl::string_view Rest() const { return text_.substr(pos_); }
  bool At(absl::string_view what) const { return absl::StartsWith(Rest(), what); }
  bool Take(absl::string_view what) {
    if (!At(what)) return false;
    pos_ += what.size();
    return true;
  }
  void SkipSpace() { pos_ += LeadingPythonSpace(Rest()); }
  void Add(JinjaTokenKind kind, size_t at, absl::string_view text) {
    tokens_.push_back({kind, static_cast<uint32_t>(at), std::string(text)});
  }
  absl::Status Fail(size_t at, absl::string_view what) const { return source_.Error(at, what); }

  // Text up to the next {{, {% or {#, and that construct.
  absl::Status Root() {
    const size_t begin = pos_;
    size_t tag = text_.find('{', pos_);
    while (tag != absl::string_view::npos && (tag + 1 >= text_.size() || !absl::StrContains("{%#", text_[tag + 1]))) {
      tag = text_.find('{', tag + 1);
    }
    if (tag == absl::string_view::npos) {
      pos_ = text_.size();
      AddText(begin, pos_);
      return absl::OkStatus();
    }
    const char kind = text_[tag + 1];
    pos_ = tag + 2;
    AddText(begin, EndOfText(begin, tag, kind));
    if (kind == '#') return Comment(tag);
    if (kind == '{') {
      Add(JinjaTokenKind::kPrintBegin, tag, "{{");
      return Code(tag, JinjaTokenKind::kPrintEnd, "}}");
    }
    bool is_raw = false;
    TF_RETURN_IF_ERROR(Raw(tag, is_raw));
    if (is_raw) return absl::OkStatus();
    Add(JinjaTokenKind::kBlockBegin, tag, "{%");
    return Code(tag, JinjaTokenKind::kBlockEnd, "%}");
  }

  void AddText(size_t begin, size_t end) {
    if (begin < end) Add(JinjaTokenKind::kText, begin, text_.substr(begin, end - begin));
  }

  // Where the text before the tag at `tag` ends; `pos_` is behind the tag's two characters, and moves behind its sign.
  size_t EndOfText(size_t begin, size_t tag, char kind) {
    const absl::string_view text = text_.substr(begin, tag - begin);
    if (Take("-")) return tag - TrailingPythonSpace(text);
    if (Take("+") || kind == '{') return tag;
    const size_t line = text.rfind('\n');
    if (line == absl::string_view::npos && !at_line_start_) return tag;
    const size_t line_begin = line == absl::string_view::npos ? 0 : line + 1;
    const absl::string_view indent = text.substr(line_begin);
    return LeadingPythonSpace(indent) == indent.size() ? begin + line_begin : tag;
  }

  // At the sign and end of a tag: moves behind it and the white space that it takes.
  bool TakeEnd(absl::string_view end) {
    const size_t begin = pos_;
    const bool strips = Take("-");
    const bool keeps = !strips && end != "}}" && Take("+");
    if (!Take(end)) {
      pos_ = begin;
      return false;
    }
    if (strips) {
      SkipSpace();
    } else if (!keeps && end != "}}") {
      Take("\n");
    }
    at_line_start_ = text_[pos_ - 1] == '\n';
    return true;
  }

  absl::Status Comment(size_t tag) {
    for (; pos_ < text_.size(); ++pos_) {
      if (TakeEnd("#}")) return absl::OkStatus();
    }
    return Fail(tag, "a comment {# without its #}");
  }

  // {% raw %} .. {% endraw %}, if the block at `tag` is one.
  absl::Status Raw(size_t tag, bool& is_raw) {
    const size_t begin = pos_;
    SkipSpace();
    is_raw = Take("raw");
    if (is_raw) SkipSpace();
    const bool strips = is_raw && Take("-");
    is_raw = is_raw && Take("%}");
    if (!is_raw) {
      pos_ = begin;
      return absl::OkStatus();
    }
    if (strips) SkipSpace();
    at_line_start_ = text_[pos_ - 1] == '\n';
    const size_t content = pos_;
    for (size_t end = text_.find("{%", pos_); end != absl::string_view::npos; end = text_.find("{%", end + 2)) {
      pos_ = end + 2;
      const size_t text_end = EndOfText(content, end, '%');
      SkipSpace();
      if (!Take("endraw")) continue;
      SkipSpace();
      if (!TakeEnd("%}")) continue;
      AddText(content, text_end);
      return absl::OkStatus();
    }
    return Fail(tag, "{% raw %} without its {% endraw %}");
  }

  // The tokens of {{ .. }} and {% .. %}, with their end.
  absl::Status Code(size_t tag, JinjaTokenKind end_kind, absl::string_view end) {
    std::vector<std::pair<char, size_t>> open;  // brackets, and where they stand
    for (SkipSpace(); pos_ < text_.size(); SkipSpace()) {
      const size_t at = pos_;
      if (open.empty() && TakeEnd(end)) {
        Add(end_kind, at, end);
        return absl::OkStatus();
      }
      const char c = text_[pos_];
      if (IsNameStart(c)) {
        while (pos_ < text_.size() && IsNamePart(text_[pos_])) ++pos_;
        Add(JinjaTokenKind::kName, at, text_.substr(at, pos_ - at));
      } else if (absl::ascii_isdigit(c)) {
        TF_RETURN_IF_ERROR(Number());
      } else if (c == '"' || c == '\'') {
        TF_RETURN_IF_ERROR(String());
      } else {
        TF_RETURN_IF_ERROR(Operator(open));
      }
    }
    return Fail(tag, absl::StrCat(end == "}}" ? "{{" : "{%", " without its ", end));
  }

  absl::Status Operator(std::vector<std::pair<char, size_t>>& open) {
    const auto* op = std::find_if(std::begin(kOperators), std::end(kOperators), [this](auto o) { return At(o); });
    if (op == std::end(kOperators)) {
      return Fail(pos_, absl::StrCat("unexpected character '", Excerpt(FirstCharacter(Rest())), "'"));
    }
    const char c = (*op)[0];
    if (c == '(' || c == '[' || c == '{') open.emplace_back(c, pos_);
    if (c == ')' || c == ']' || c == '}') {
      const char opener = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open.empty() || open.back().first != opener) return Fail(pos_, absl::StrCat("unexpected '", *op, "'"));
      open.pop_back();
    }
    Add(JinjaTokenKind::kOperator, pos_, *op);
    pos_ += op->size();
    return absl::OkStatus();
  }

  void Digits(bool (*is_digit)(unsigned char), std::string& out) {
    while (pos_ < text_.size() && (is_digit(text_[pos_]) || text_[pos_] == '_')) {
      if (text_[pos_] != '_') out += text_[pos_];
      ++pos_;
    }
  }

  absl::Status Number() {
    const size_t at = pos_;
    if (pos_ + 1 < text_.size() && text_[pos_] == '0' && absl::StrContains("xXoObB", text_[pos_ + 1])) {
      return Fail(at, "a number that is not decimal, which is not supported");
    }
    std::string digits;
    Digits(absl::ascii_isdigit, digits);
    bool is_float = false;
    if (At(".") && pos_ + 1 < text_.size() && absl::ascii_isdigit(text_[pos_ + 1])) {
      is_float = true;
      digits += '.';
      ++pos_;
      Digits(absl::ascii_isdigit, digits);
    }
    size_t exponent = pos_;
    if (exponent < text_.size() && (text_[exponent] | 0x20) == 'e') {
      ++exponent;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (exponent < text_.size() && absl::ascii_isdigit(text_[exponent])) {
        is_float = true;
        digits.append(text_.data() + pos_, exponent - pos_);
        pos_ = exponent;
        Digits(absl::ascii_isdigit, digits);
      }
    }
    Add(is_float ? JinjaTokenKind::kFloat : JinjaTokenKind::kInteger, at, digits);
    return absl::OkStatus();
  }

  absl::Status String() {
    const size_t at = pos_;
    const char quote = text_[pos_++];
    std::string value;
    while (pos_ < text_.size() && text_[pos_] != quote) {
      if (text_[pos_] != '\\') {
        value += text_[pos_++];
      } else {
        TF_RETURN_IF_ERROR(Escape(value));
      }
    }
    if (pos_ == text_.size()) return Fail(at, "a string without its end");
    ++pos_;
    Add(JinjaTokenKind::kString, at, value);
    return absl::OkStatus();
  }

  // Python's escapes; one that it does not know stays as it is.
  absl::Status Escape(std::string& value) {
    const size_t at = pos_++;
    if (pos_ == text_.size()) return Fail(at, "a string without its end");
    const char c = text_[pos_++];
    static constexpr std::pair<char, char> kPlain[] = {{'\\', '\\'}, {'\'', '\''}, {'"', '"'},  {'a', '\a'},
                                                       {'b', '\b'},  {'f', '\f'},  {'n', '\n'}, {'r', '\r'},
                                                       {'t', '\t'},  {'v', '\v'}};
    for (const auto& [name, character] : kPlain) {
      if (c != name) continue;
      value += character;
      return absl::OkStatus();
    }
    if (c == '\n') return absl::OkStatus();
    if (c == 'x') return CodePoint(at, 2, value);
    if (c == 'u') return CodePoint(at, 4, value);
    if (c == 'U') return CodePoint(at, 8, value);
    if (c == 'N') return Fail(at, "a \\N escape, which is not supported");
    if (c >= '0' && c <= '7') return Fail(at, "an octal escape, which is not supported");
    value += '\\';
    value += c;
    return absl::OkStatus();
  }

  absl::Status CodePoint(size_t at, size_t num_digits, std::string& value) {
    uint32_t point = 0;
    if (!ReadHex(num_digits, point)) return Fail(at, absl::StrCat("an escape without its ", num_digits, " digits"));
    if (point >= 0xD800 && point <= 0xDBFF && Take("\\u")) {  // written as two halves
      uint32_t low = 0;
      if (!ReadHex(4, low) || low < 0xDC00 || low > 0xDFFF) return Fail(at, "half of a surrogate pair");
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    if ((point >= 0xD800 && point <= 0xDFFF) || point > 0x10FFFF) return Fail(at, "an escape of no character");
    AppendUtf8(point, value);
    return absl::OkStatus();
  }

  bool ReadHex(size_t num_digits, uint32_t& value) {
    value = 0;
    for (size_t i = 0; i < num_digits; ++i, ++pos_) {
      if (pos_ == text_.size() || !absl::ascii_isxdigit(text_[pos_])) return false;
      const char c = text_[pos_];
      value = value * 16 + static_cast<uint32_t>(absl::ascii_isdigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return true;
  }

  const JinjaSource& source_;
  const absl::string_view text_;
  size_t pos_ = 0;
  bool at_line_start_ = true;
  std::vector<JinjaToken> tokens_;
};

}  // namespace

JinjaSource::JinjaSource(absl::string_view text, absl::string_view name) : name_(name) {
  std::string valid;
  AppendValidUtf8(text, Utf8End::kLast, valid);
  text_ = absl::StrReplaceAll(valid, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (absl::EndsWith(text_, "\n")) text_.pop_back();
}

absl::Status JinjaSource::Error(size_t at, absl::string_view what) const {
  return Place(at, absl::InvalidArgumentError(what));
}

absl::Status JinjaSource::Place(size_t at, const absl::Status& status) const {
  // What a template raises, or quotes of a conversation, may be long and have lines; an error is one line.
  constexpr size_t kMaxBytes = 1000;
  const absl::string_view message = status.message();
  std::string shown;
  AppendValidUtf8(message.substr(0, kMaxBytes), Utf8End::kLast, shown);
  shown = absl::StrReplaceAll(shown, {{"\n", "\\n"}, {"\r", "\\r"}});
  if (message.size() > kMaxBytes) shown += "..";
  return absl::Status(status.code(), absl::StrCat(name_, ":", LineAndColumn(text_, at, 1), ": ", shown));
}

absl::StatusOr<std::vector<JinjaToken>> TokenizeJinja(const JinjaSource& source) { return Lexer(source).Run(); }

}  // namespace tokenferry
