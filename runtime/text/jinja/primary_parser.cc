// The inner parts of expressions: constants, brackets, and what stands behind a value.
#include <algorithm>

#include "absl/strings/numbers.h"
#include "runtime/text/jinja/expression_parser.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/tests.h"

namespace tokenferry {
namespace {

using ExprKind = JinjaExpr::Kind;

JinjaExprPtr MakeConst(uint32_t at, JinjaValue value) {
  JinjaExprPtr expr = MakeJinjaExpr(ExprKind::kConst, at);
  expr->constant = std::move(value);
  return expr;
}

}  // namespace

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Primary() {
  const uint32_t at = token().at;
  switch (token().kind) {
    case JinjaTokenKind::kName: {
      const std::string name = Next().text;
      if (name == "true" || name == "True") return MakeConst(at, JinjaValue::Bool(true));
      if (name == "false" || name == "False") return MakeConst(at, JinjaValue::Bool(false));
      if (name == "none" || name == "None") return MakeConst(at, JinjaValue::None());
      JinjaExprPtr expr = MakeJinjaExpr(ExprKind::kName, at);
      expr->name = name;
      return expr;
    }
    case JinjaTokenKind::kString: {
      std::string text;
      while (token().kind == JinjaTokenKind::kString) text += Next().text;
      return MakeConst(at, JinjaValue::Text(text, TextOrigin::kModel));
    }
    case JinjaTokenKind::kInteger: {
      int64_t value = 0;
      if (!absl::SimpleAtoi(token().text, &value)) return Fail(token(), "an integer of more than 64 bits");
      Next();
      return MakeConst(at, JinjaValue::Int(value));
    }
    case JinjaTokenKind::kFloat: {
      double value = 0;
      if (!absl::SimpleAtod(token().text, &value)) return Unexpected("a number");
      Next();
      return MakeConst(at, JinjaValue::Float(value));
    }
    default:
      return Bracket();
  }
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Bracket() {
  const uint32_t at = token().at;
  if (TakeOperator("(")) {
    if (TakeOperator(")")) return MakeJinjaExpr(ExprKind::kTuple, at);
    TF_ASSIGN_OR_RETURN(JinjaExprPtr inner, Tuple());
    TF_RETURN_IF_ERROR(ExpectOperator(")"));
    return inner;
  }
  const bool is_dict = IsOperator("{");
  if (!is_dict && !IsOperator("[")) return Unexpected("an expression");
  Next();
  const absl::string_view end = is_dict ? "}" : "]";
  JinjaExprPtr expr = MakeJinjaExpr(is_dict ? ExprKind::kDict : ExprKind::kList, at);
  while (!IsOperator(end)) {
    if (!expr->args.empty()) TF_RETURN_IF_ERROR(ExpectOperator(","));
    if (IsOperator(end)) break;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr item, Expression());
    expr->args.push_back(std::move(item));
    if (!is_dict) continue;
    TF_RETURN_IF_ERROR(ExpectOperator(":"));
    TF_ASSIGN_OR_RETURN(JinjaExprPtr value, Expression());
    expr->args.push_back(std::move(value));
  }
  Next();
  return Finish(std::move(expr));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Postfix(JinjaExprPtr value) {
  while (true) {
    const uint32_t at = token().at;
    if (TakeOperator(".")) {
      const bool is_index = token().kind == JinjaTokenKind::kInteger;
      if (is_index) {
        TF_ASSIGN_OR_RETURN(JinjaExprPtr index, Primary());
        value = MakeJinjaExpr(ExprKind::kItem, at, std::move(value), std::move(index));
      } else {
        value = MakeJinjaExpr(ExprKind::kAttr, token().at, std::move(value));
        TF_ASSIGN_OR_RETURN(value->name, ExpectName());
      }
    } else if (TakeOperator("[")) {
      TF_ASSIGN_OR_RETURN(value, Subscript(std::move(value)));
    } else if (TakeOperator("(")) {
      value = MakeJinjaExpr(ExprKind::kCall, value->at, std::move(value));
      TF_RETURN_IF_ERROR(Arguments(*value));
    } else {
      return value;
    }
    TF_ASSIGN_OR_RETURN(value, Finish(std::move(value)));
  }
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Subscript(JinjaExprPtr value) {
  const uint32_t at = token().at;
  std::vector<JinjaExprPtr> parts(1);  // of a slice, as far as they have come
  const auto ends_part = [this] { return IsOperator(":") || IsOperator("]"); };
  if (!ends_part()) {
    TF_ASSIGN_OR_RETURN(parts[0], Tuple());
  }
  while (parts.size() < 3 && TakeOperator(":")) {
    parts.emplace_back();
    if (ends_part()) continue;
    TF_ASSIGN_OR_RETURN(parts.back(), Expression());
  }
  TF_RETURN_IF_ERROR(ExpectOperator("]"));
  if (parts.size() == 1) {
    if (parts[0] == nullptr) return source_.Error(at, "[] without an index");
    return MakeJinjaExpr(ExprKind::kItem, at, std::move(value), std::move(parts[0]));
  }
  parts.resize(3);
  return MakeJinjaExpr(ExprKind::kSlice, at, std::move(value), std::move(parts[0]), std::move(parts[1]),
                       std::move(parts[2]));
}

absl::Status JinjaExpressionParser::Arguments(JinjaExpr& call) {
  bool first = true;
  while (!TakeOperator(")")) {
    if (!first) {
      TF_RETURN_IF_ERROR(ExpectOperator(","));
      if (TakeOperator(")")) break;
    }
    first = false;
    if (IsOperator("*") || IsOperator("**")) return Refuse(token(), absl::StrCat(token().text, " in a call"));
    const JinjaToken& following = tokens_[std::min(pos_ + 1, tokens_.size() - 1)];
    const bool is_keyword =
        token().kind == JinjaTokenKind::kName && following.kind == JinjaTokenKind::kOperator && following.text == "=";
    if (is_keyword) {
      const JinjaToken& name = Next();
      Next();
      for (const auto& [other, unused] : call.kwargs) {
        if (other == name.text) return Fail(name, absl::StrCat("argument '", name.text, "' given twice"));
      }
      TF_ASSIGN_OR_RETURN(JinjaExprPtr value, Expression());
      call.kwargs.emplace_back(name.text, std::move(value));
      continue;
    }
    if (!call.kwargs.empty()) return Fail(token(), "an argument without a name behind one with a name");
    TF_ASSIGN_OR_RETURN(JinjaExprPtr value, Expression());
    call.args.push_back(std::move(value));
  }
  return absl::OkStatus();
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::OneFilter(JinjaExprPtr value) {
  const JinjaToken& name = token();
  JinjaExprPtr filter = MakeJinjaExpr(ExprKind::kFilter, name.at, std::move(value));
  TF_ASSIGN_OR_RETURN(filter->name, ExpectName());
  if (!IsJinjaFilter(filter->name)) return Refuse(name, absl::StrCat("filter '", filter->name, "'"));
  if (TakeOperator("(")) TF_RETURN_IF_ERROR(Arguments(*filter));
  return Finish(std::move(filter));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Filters(JinjaExprPtr value) {
  do {
    TF_ASSIGN_OR_RETURN(value, OneFilter(std::move(value)));
  } while (TakeOperator("|"));
  return value;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Test(JinjaExprPtr value) {
  const bool negated = TakeName("not");
  const JinjaToken& name = token();
  JinjaExprPtr test = MakeJinjaExpr(ExprKind::kTest, name.at, std::move(value));
  TF_ASSIGN_OR_RETURN(test->name, ExpectName());
  if (!IsJinjaTest(test->name)) return Refuse(name, absl::StrCat("test '", test->name, "'"));
  const auto begins_argument = [this] {
    for (absl::string_view word : {"else", "or", "and", "if", "is", "not", "in"}) {
      if (IsName(word)) return false;
    }
    return (token().kind != JinjaTokenKind::kOperator && token().kind <= JinjaTokenKind::kFloat &&
            token().kind >= JinjaTokenKind::kName) ||
           IsOperator("[") || IsOperator("{");
  };
  if (TakeOperator("(")) {
    TF_RETURN_IF_ERROR(Arguments(*test));
  } else if (begins_argument()) {
    TF_ASSIGN_OR_RETURN(JinjaExprPtr argument, Primary());
    TF_ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
    test->args.push_back(std::move(argument));
  }
  TF_ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  return negated ? Finish(MakeJinjaExpr(ExprKind::kNot, test->at, std::move(test))) : Result(std::move(test));
}

}  // namespace tokenferry
