// The expressions of the template language; private to the parser.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/lexer.h"

namespace tokenferry {

// Goes over the tokens. The grammar and its precedence are those of jinja2/parser.py.
class JinjaExpressionParser {
 public:
  JinjaExpressionParser(const JinjaSource& source, std::vector<JinjaToken> tokens)
      : source_(source), tokens_(std::move(tokens)) {}

  const JinjaToken& token() const { return tokens_[pos_]; }
  const JinjaToken& Next() { return token().kind == JinjaTokenKind::kEnd ? tokens_[pos_] : tokens_[pos_++]; }
  bool IsName(absl::string_view name) const { return Is(JinjaTokenKind::kName, name); }
  bool IsOperator(absl::string_view op) const { return Is(JinjaTokenKind::kOperator, op); }
  bool TakeName(absl::string_view name);
  bool TakeOperator(absl::string_view op);
  absl::Status ExpectOperator(absl::string_view op);
  absl::Status Expect(JinjaTokenKind kind, absl::string_view what);
  absl::StatusOr<std::string> ExpectName();  // any

  absl::Status Fail(const JinjaToken& token, absl::string_view what) const { return source_.Error(token.at, what); }
  absl::Status Refuse(const JinjaToken& token, absl::string_view what) const;
  absl::Status Unexpected(absl::string_view wanted) const;

  enum class Conditional : uint8_t { kYes, kNo };  // whether `a if b else c` is taken, or `if` belongs to a for
  absl::StatusOr<JinjaExprPtr> Expression(Conditional conditional = Conditional::kYes);
  // One expression, or a tuple without brackets.
  absl::StatusOr<JinjaExprPtr> Tuple(Conditional conditional = Conditional::kYes);
  // What may stand left of `=` or `in`: names, a tuple of them, and, where `attribute`, a namespace's attribute.
  enum class AttributeTarget : uint8_t { kNo, kYes };
  absl::StatusOr<JinjaExprPtr> Target(AttributeTarget attribute);
  // At a filter's name: `name(args)|name ..` applied to `value`.
  absl::StatusOr<JinjaExprPtr> Filters(JinjaExprPtr value);
  absl::StatusOr<JinjaExprPtr> Postfix(JinjaExprPtr value);  // .name [item] (call)

 private:
  using Result = absl::StatusOr<JinjaExprPtr>;

  bool Is(JinjaTokenKind kind, absl::string_view text) const { return token().kind == kind && token().text == text; }
  Result Or();
  Result And();
  Result Not();
  Result Compare();
  Result Sum();
  Result Concat();
  Result Product();
  Result Power();
  enum class WithFilter : uint8_t { kYes, kNo };
  Result Unary(WithFilter filter);
  Result Primary();
  Result Bracket();                      // ( [ {
  Result OneFilter(JinjaExprPtr value);  // at its name
  Result Test(JinjaExprPtr value);       // behind `is`
  Result Subscript(JinjaExprPtr value);  // behind [
  Result TargetName(AttributeTarget attribute);
  absl::Status Arguments(JinjaExpr& call);                       // behind (
  absl::StatusOr<JinjaExprPtr> Finish(JinjaExprPtr expr) const;  // computes its depth, and checks it
  absl::Status Enter();                                          // one more nested construct

  const JinjaSource& source_;
  std::vector<JinjaToken> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
};

}  // namespace tokenferry
