#include <algorithm>
#include <cctype>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/fakegpu/ptx/program.h"

namespace tokenferry::fakegpu {
namespace {

bool IsNameChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }

int RoundUp(int value, int align) { return (value + align - 1) / align * align; }

class Parser {
 public:
  explicit Parser(absl::string_view text) : text_(text) {}

  Module Parse() {
    while (SkipBlank()) ParseModuleDirective();
    return std::move(module_);
  }

 private:
  [[noreturn]] void Fail(absl::string_view what, absl::string_view text) const {
    throw UnsupportedPtx(absl::StrCat("PTX line ", line_, ": ", what, ": ", text));
  }

  // Moves to the next character that is neither blank nor part of a comment; false at the end.
  bool SkipBlank() {
    while (at_ < text_.size()) {
      if (text_[at_] == '\n') ++line_;
      if (text_[at_] == '\0') return false;
      if (std::isspace(static_cast<unsigned char>(text_[at_]))) {
        ++at_;
      } else if (text_.substr(at_, 2) == "//") {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (text_.substr(at_, 2) == "/*") {
        const size_t end = std::min(text_.find("*/", at_), text_.size() - 2) + 2;
        line_ += static_cast<int>(std::count(text_.begin() + at_, text_.begin() + end, '\n'));
        at_ = end;
      } else {
        return true;
      }
    }
    return false;
  }

  // What comes before the first of `ends`, which is left; braces in it are part of it unless they are an end.
  absl::string_view Until(absl::string_view ends) {
    const size_t begin = at_;
    at_ = std::min(text_.find_first_of(ends, at_), text_.size());
    const absl::string_view found = text_.substr(begin, at_ - begin);
    line_ += static_cast<int>(std::count(found.begin(), found.end(), '\n'));
    return absl::StripAsciiWhitespace(found);
  }

  void SkipBody() {  // from its '{'
    int depth = 0;
    do {
      Until("{}");
      if (at_ >= text_.size()) Fail("a body without an end", "");
      depth += text_[at_++] == '{' ? 1 : -1;
    } while (depth > 0);
  }

  void ParseModuleDirective() {
    if (text_[at_] != '.') Fail("not a directive", Until("\n"));
    const size_t start = at_;
    const absl::string_view word = Until(" \t\n");
    if (word == ".version" || word == ".address_size") {
      Until("\n");
    } else if (word == ".target") {
      module_.target = std::string(absl::StripAsciiWhitespace(Until("\n,")));
      Until("\n");
    } else if (word == ".file") {
      Until("\n");
    } else if (word == ".section") {
      Until("{");
      SkipBody();
    } else {
      at_ = start;
      const absl::string_view head = Until("(;{");
      if (absl::StrContains(absl::StrCat(head, " "), ".entry ")) {
        ParseKernel(std::string(head.substr(head.find_last_of(" \t\n") + 1)));
      } else if (absl::StrContains(absl::StrCat(head, " "), ".func ")) {
        Until(";{");  // a call to it is refused
        if (text_[at_] == '{')
          SkipBody();
        else
          ++at_;
      } else if (absl::StrContains(head, ".shared")) {
        if (!absl::StrContains(head, ".extern")) Fail("shared memory of the module", head);
        dynamic_shared_.push_back(Declare(head).name);
        ++at_;
      } else {
        // A variable of the module: an operand that names it fails.
        if (text_[at_] != ';') Until(";");
        ++at_;
      }
    }
  }

  struct Declaration {
    std::string name;
    Type type = Type::kNone;
    int align = 0, count = 1;
  };

  // ".shared .align 4 .b8 name[512]"
  Declaration Declare(absl::string_view text) const {
    Declaration d;
    const std::vector<absl::string_view> words = absl::StrSplit(text, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i] == ".align") {
        if (!absl::SimpleAtoi(words[++i], &d.align)) Fail("alignment", text);
      } else if (const Type type = TypeNamed(words[i].substr(1)); type != Type::kNone) {
        d.type = type;
      } else if (words[i] == ".ptr") {  // ".param .u64 .ptr .global .align 1 name": a promise about the pointer
        d.align = SizeOf(d.type);
        d.name = std::string(words.back());
        return d;
      }
    }
    absl::string_view name = words.back();
    while (const size_t bracket = name.rfind('[') + 1) {
      int count = 0;
      if (name.substr(bracket) != "]" && !absl::SimpleAtoi(name.substr(bracket, name.size() - bracket - 1), &count))
        Fail("array", text);
      d.count *= count;
      name = name.substr(0, bracket - 1);
    }
    d.name = std::string(name);
    if (d.type == Type::kNone) Fail("a declaration without a type", text);
    if (d.align == 0) d.align = SizeOf(d.type);
    return d;
  }

  void ParseKernel(const std::string& name) {
    kernel_ = {};
    kernel_.name = name;
    if (text_[at_] == '(') {
      ++at_;
      const absl::string_view params = Until(")");
      ++at_;
      for (absl::string_view param : absl::StrSplit(params, ',', absl::SkipWhitespace())) {
        const Declaration d = Declare(absl::StripAsciiWhitespace(param));
        const int offset = RoundUp(kernel_.param_bytes, d.align), size = SizeOf(d.type) * d.count;
        kernel_.addresses[d.name] = offset;
        kernel_.param_offsets.push_back(offset);
        kernel_.param_sizes.push_back(size);
        kernel_.param_bytes = offset + size;
      }
    }
    Until("{;");  // bounds for ptxas: .maxntid and the like
    if (text_[at_] == ';') {
      ++at_;
      return;
    }
    scopes_.clear();
    do {
      if (!SkipBlank()) Fail("a kernel without an end", name);
      ParseInBody();
    } while (!scopes_.empty());
    for (const std::string& shared : dynamic_shared_) {
      kernel_.addresses[shared] = kSharedBase + RoundUp(kernel_.shared_bytes, 128);
    }
    kernel_.shared_bytes = RoundUp(kernel_.shared_bytes, 128);
    module_.kernels[name] = std::move(kernel_);
  }

  void ParseInBody() {
    if (text_[at_] == '{') {
      scopes_.emplace_back();
      ++at_;
    } else if (text_[at_] == '}') {
      scopes_.pop_back();
      ++at_;
    } else if (text_[at_] == ';') {
      ++at_;
    } else if (text_[at_] == '.') {
      ParseBodyDirective();
    } else {
      ParseStatement();
    }
  }

  void ParseBodyDirective() {
    const size_t start = at_;
    const absl::string_view word = Until(" \t\n");
    if (word == ".loc" || word == ".file") {
      Until("\n");
      return;
    }
    at_ = start;
    const absl::string_view text = Until(";");
    ++at_;
    if (word == ".pragma") return;
    if (word == ".reg") return DeclareRegisters(text);
    if (word != ".shared" && word != ".local") Fail("directive", text);
    const Declaration d = Declare(text);
    int& bytes = word == ".shared" ? kernel_.shared_bytes : kernel_.local_bytes;
    bytes = RoundUp(bytes, d.align);
    kernel_.addresses[d.name] = bytes + (word == ".shared" ? kSharedBase : 0);
    bytes += SizeOf(d.type) * d.count;
  }

  // ".reg .b32 %r<57>" or ".reg .pred p, q"
  void DeclareRegisters(absl::string_view text) {
    text = absl::StripAsciiWhitespace(absl::StripPrefix(text, ".reg"));
    const size_t space = text.find_first_of(" \t");
    const Type type = TypeNamed(text.substr(1, space - 1));
    if (type == Type::kNone) Fail("registers", text);
    for (absl::string_view part : absl::StrSplit(text.substr(space), ',')) {
      part = absl::StripAsciiWhitespace(part);
      const size_t bracket = part.find('<');
      int count = 0;
      if (bracket == part.npos) {
        AddRegister(std::string(part), type);
      } else if (!absl::SimpleAtoi(part.substr(bracket + 1, part.size() - bracket - 2), &count)) {
        Fail("registers", text);
      }
      for (int i = 0; i < count; ++i) AddRegister(absl::StrCat(part.substr(0, bracket), i), type);
    }
  }

  void AddRegister(const std::string& name, Type type) {
    scopes_.back()[name] = static_cast<int>(kernel_.register_bytes.size());
    kernel_.register_bytes.push_back(static_cast<uint8_t>(SizeOf(type)));
  }

  // Registers become "%<number>"; everything else stays as it is.
  std::string Renamed(absl::string_view operand) const {
    std::string out;
    for (size_t i = 0; i < operand.size();) {
      if (!IsNameChar(operand[i])) {
        if (!std::isspace(static_cast<unsigned char>(operand[i]))) out += operand[i];
        ++i;
        continue;
      }
      size_t end = i;
      while (end < operand.size() && (IsNameChar(operand[end]) || (operand[i] == '%' && operand[end] == '.'))) ++end;
      const std::string name(operand.substr(i, end - i));
      std::optional<int> number;
      for (size_t s = scopes_.size(); s-- > 0 && !number;) {
        if (auto found = scopes_[s].find(name); found != scopes_[s].end()) number = found->second;
      }
      if (number)
        absl::StrAppend(&out, "%", *number);
      else
        out += name;
      i = end;
    }
    return out;
  }

  void ParseStatement() {
    const int line = line_;
    size_t colon = at_;
    while (colon < text_.size() && IsNameChar(text_[colon])) ++colon;
    if (colon < text_.size() && text_[colon] == ':') {
      kernel_.labels[std::string(text_.substr(at_, colon - at_))] = static_cast<int>(kernel_.statements.size());
      at_ = colon + 1;
      return;
    }
    absl::string_view text = Until(";");
    ++at_;
    Statement s;
    s.line = line;
    if (text[0] == '@') {
      const size_t space = text.find_first_of(" \t\n");
      s.guard_negated = text[1] == '!';
      s.guard = Renamed(text.substr(s.guard_negated ? 2 : 1, space - (s.guard_negated ? 2 : 1)));
      text = absl::StripAsciiWhitespace(text.substr(space));
    }
    const size_t space = std::min(text.find_first_of(" \t\n"), text.size());
    s.opcode = std::string(text.substr(0, space));
    s.operands = SplitOperands(text.substr(space));
    kernel_.statements.push_back(std::move(s));
  }

  std::vector<std::string> SplitOperands(absl::string_view text) const {
    std::vector<std::string> operands;
    int depth = 0;
    size_t begin = 0;
    for (size_t i = 0; i <= text.size(); ++i) {
      const char c = i < text.size() ? text[i] : ',';
      if (c == '{' || c == '[' || c == '(') ++depth;
      if (c == '}' || c == ']' || c == ')') --depth;
      if (depth > 0 || (c != ',' && c != '|')) continue;
      if (std::string operand = Renamed(text.substr(begin, i - begin)); !operand.empty()) operands.push_back(operand);
      begin = i + 1;
    }
    return operands;
  }

  const absl::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  Module module_;
  Kernel kernel_;
  std::vector<std::map<std::string, int>> scopes_;
  std::vector<std::string> dynamic_shared_;
};

struct NamedType {
  absl::string_view name;
  Type type;
  int size;
};
constexpr NamedType kTypes[] = {
    {"b8", Type::kB8, 1},         {"b16", Type::kB16, 2},   {"b32", Type::kB32, 4},     {"b64", Type::kB64, 8},
    {"u8", Type::kU8, 1},         {"u16", Type::kU16, 2},   {"u32", Type::kU32, 4},     {"u64", Type::kU64, 8},
    {"s8", Type::kS8, 1},         {"s16", Type::kS16, 2},   {"s32", Type::kS32, 4},     {"s64", Type::kS64, 8},
    {"f16", Type::kF16, 2},       {"bf16", Type::kBF16, 2}, {"f16x2", Type::kF16x2, 4}, {"bf16x2", Type::kBF16x2, 4},
    {"e4m3x2", Type::kE4M3x2, 2}, {"f32", Type::kF32, 4},   {"f64", Type::kF64, 8},     {"pred", Type::kPred, 1},
};

}  // namespace

Type TypeNamed(absl::string_view name) {
  for (const NamedType& t : kTypes) {
    if (t.name == name) return t.type;
  }
  return Type::kNone;
}

int SizeOf(Type type) {
  for (const NamedType& t : kTypes) {
    if (t.type == type) return t.size;
  }
  return 0;
}

Module ParsePtx(absl::string_view text) { return Parser(text).Parse(); }

std::string ToString(const Statement& s) {
  return absl::StrCat(s.guard.empty() ? "" : absl::StrCat("@", s.guard_negated ? "!" : "", s.guard, " "), s.opcode, " ",
                      absl::StrJoin(s.operands, ", "));
}

}  // namespace tokenferry::fakegpu
