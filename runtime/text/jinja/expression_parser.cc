#include "runtime/text/jinja/expression_parser.h"

#include <algorithm>
#include <optional>

#include "core/io/foreign_text.h"

namespace tokenferry {
namespace {

constexpr int kMaxNesting = 100;    // of brackets, unary operators and conditions in one another
constexpr int kMaxTreeDepth = 200;  // also of chains like a + b + c

using ExprKind = JinjaExpr::Kind;

std::optional<JinjaOp> Find(absl::string_view text, std::initializer_list<std::pair<absl::string_view, JinjaOp>> ops) {
  for (const auto& [name, op] : ops) {
    if (text == name) return op;
  }
  return std::nullopt;
}

}  // namespace

bool JinjaExpressionParser::TakeName(absl::string_view name) {
  const bool is = IsName(name);
  if (is) Next();
  return is;
}

bool JinjaExpressionParser::TakeOperator(absl::string_view op) {
  const bool is = IsOperator(op);
  if (is) Next();
  return is;
}

absl::Status JinjaExpressionParser::Unexpected(absl::string_view wanted) const {
  const std::string found = token().kind == JinjaTokenKind::kEnd ? "the end of the template" : token().text;
  return Fail(token(), absl::StrCat("expected ", wanted, ", found '", Excerpt(found), "'"));
}

absl::Status JinjaExpressionParser::ExpectOperator(absl::string_view op) {
  return TakeOperator(op) ? absl::OkStatus() : Unexpected(absl::StrCat("'", op, "'"));
}

absl::Status JinjaExpressionParser::Expect(JinjaTokenKind kind, absl::string_view what) {
  if (token().kind != kind) return Unexpected(what);
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::string> JinjaExpressionParser::ExpectName() {
  if (token().kind != JinjaTokenKind::kName) return Unexpected("a name");
  return Next().text;
}

absl::Status JinjaExpressionParser::Refuse(const JinjaToken& token, absl::string_view what) const {
  return source_.Place(token.at, absl::UnimplementedError(absl::StrCat(what, ", which is not supported")));
}

absl::Status JinjaExpressionParser::Enter() {
  if (++nesting_ <= kMaxNesting) return absl::OkStatus();
  return Fail(token(), absl::StrCat("expressions nested deeper than ", kMaxNesting, " levels"));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Finish(JinjaExprPtr expr) const {
  for (const JinjaExprPtr& arg : expr->args) {
    if (arg != nullptr) expr->depth = std::max(expr->depth, 1 + arg->depth);
  }
  for (const auto& [name, arg] : expr->kwargs) expr->depth = std::max(expr->depth, 1 + arg->depth);
  if (expr->depth <= kMaxTreeDepth) return expr;
  return source_.Error(expr->at, absl::StrCat("an expression of more than ", kMaxTreeDepth, " nested parts"));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Expression(Conditional conditional) {
  TF_RETURN_IF_ERROR(Enter());
  TF_ASSIGN_OR_RETURN(JinjaExprPtr value, Or());
  while (conditional == Conditional::kYes && IsName("if")) {
    const uint32_t at = Next().at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr condition, Or());
    JinjaExprPtr other;
    if (TakeName("else")) {
      TF_ASSIGN_OR_RETURN(other, Expression());
    }
    TF_ASSIGN_OR_RETURN(
        value, Finish(MakeJinjaExpr(ExprKind::kIf, at, std::move(condition), std::move(value), std::move(other))));
  }
  --nesting_;
  return value;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Tuple(Conditional conditional) {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr first, Expression(conditional));
  if (!IsOperator(",")) return first;
  JinjaExprPtr tuple = MakeJinjaExpr(ExprKind::kTuple, first->at, std::move(first));
  while (TakeOperator(",")) {
    const bool at_end =
        token().kind == JinjaTokenKind::kBlockEnd || token().kind == JinjaTokenKind::kPrintEnd || IsOperator(")");
    if (at_end) break;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr next, Expression(conditional));
    tuple->args.push_back(std::move(next));
  }
  return Finish(std::move(tuple));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::TargetName(AttributeTarget attribute) {
  if (TakeOperator("(")) {
    TF_RETURN_IF_ERROR(Enter());
    TF_ASSIGN_OR_RETURN(JinjaExprPtr inner, Target(AttributeTarget::kNo));
    TF_RETURN_IF_ERROR(ExpectOperator(")"));
    --nesting_;
    return inner;
  }
  const uint32_t at = token().at;
  for (absl::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
    if (IsName(constant)) return Fail(token(), absl::StrCat("cannot assign to ", constant));
  }
  TF_ASSIGN_OR_RETURN(std::string name, ExpectName());
  JinjaExprPtr target = MakeJinjaExpr(ExprKind::kName, at);
  target->name = std::move(name);
  if (attribute == AttributeTarget::kNo || !TakeOperator(".")) return target;
  target = MakeJinjaExpr(ExprKind::kAttr, at, std::move(target));
  TF_ASSIGN_OR_RETURN(target->name, ExpectName());
  return Finish(std::move(target));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Target(AttributeTarget attribute) {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr first, TargetName(attribute));
  if (!IsOperator(",")) return first;
  JinjaExprPtr tuple = MakeJinjaExpr(ExprKind::kTuple, first->at, std::move(first));
  while (TakeOperator(",")) {
    if (token().kind != JinjaTokenKind::kName && !IsOperator("(")) break;
    if (IsName("in")) break;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr next, TargetName(AttributeTarget::kNo));
    tuple->args.push_back(std::move(next));
  }
  return Finish(std::move(tuple));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Or() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr left, And());
  while (IsName("or")) {
    const uint32_t at = Next().at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr right, And());
    TF_ASSIGN_OR_RETURN(left, Finish(MakeJinjaExpr(ExprKind::kOr, at, std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::And() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr left, Not());
  while (IsName("and")) {
    const uint32_t at = Next().at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr right, Not());
    TF_ASSIGN_OR_RETURN(left, Finish(MakeJinjaExpr(ExprKind::kAnd, at, std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Not() {
  if (!IsName("not")) return Compare();
  TF_RETURN_IF_ERROR(Enter());
  const uint32_t at = Next().at;
  TF_ASSIGN_OR_RETURN(JinjaExprPtr operand, Not());
  --nesting_;
  return Finish(MakeJinjaExpr(ExprKind::kNot, at, std::move(operand)));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Compare() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr first, Sum());
  JinjaExprPtr compare;
  while (true) {
    std::optional<JinjaOp> op;
    const uint32_t at = token().at;
    if (token().kind == JinjaTokenKind::kOperator) {
      op = Find(token().text, {{"==", JinjaOp::kEq},
                               {"!=", JinjaOp::kNe},
                               {"<", JinjaOp::kLt},
                               {"<=", JinjaOp::kLe},
                               {">", JinjaOp::kGt},
                               {">=", JinjaOp::kGe}});
    } else if (IsName("in")) {
      op = JinjaOp::kIn;
    } else if (IsName("not") && tokens_[pos_ + 1].text == "in" && tokens_[pos_ + 1].kind == JinjaTokenKind::kName) {
      Next();
      op = JinjaOp::kNotIn;
    }
    if (!op) break;
    Next();
    if (compare == nullptr) compare = MakeJinjaExpr(ExprKind::kCompare, at, std::move(first));
    TF_ASSIGN_OR_RETURN(JinjaExprPtr operand, Sum());
    compare->args.push_back(std::move(operand));
    compare->ops.push_back(*op);
  }
  return compare == nullptr ? Result(std::move(first)) : Finish(std::move(compare));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Sum() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr left, Concat());
  while (IsOperator("+") || IsOperator("-")) {
    const JinjaToken& op = Next();
    const JinjaOp kind = op.text == "+" ? JinjaOp::kAdd : JinjaOp::kSub;
    const uint32_t at = op.at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr right, Concat());
    JinjaExprPtr sum = MakeJinjaExpr(ExprKind::kBinary, at, std::move(left), std::move(right));
    sum->ops.push_back(kind);
    TF_ASSIGN_OR_RETURN(left, Finish(std::move(sum)));
  }
  return left;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Concat() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr first, Product());
  if (!IsOperator("~")) return first;
  JinjaExprPtr concat = MakeJinjaExpr(ExprKind::kConcat, token().at, std::move(first));
  while (TakeOperator("~")) {
    TF_ASSIGN_OR_RETURN(JinjaExprPtr next, Product());
    concat->args.push_back(std::move(next));
  }
  return Finish(std::move(concat));
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Product() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr left, Power());
  while (token().kind == JinjaTokenKind::kOperator) {
    const std::optional<JinjaOp> op = Find(
        token().text, {{"*", JinjaOp::kMul}, {"/", JinjaOp::kDiv}, {"//", JinjaOp::kFloorDiv}, {"%", JinjaOp::kMod}});
    if (!op) break;
    const uint32_t at = Next().at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr right, Power());
    JinjaExprPtr product = MakeJinjaExpr(ExprKind::kBinary, at, std::move(left), std::move(right));
    product->ops.push_back(*op);
    TF_ASSIGN_OR_RETURN(left, Finish(std::move(product)));
  }
  return left;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Power() {
  TF_ASSIGN_OR_RETURN(JinjaExprPtr left, Unary(WithFilter::kYes));
  while (IsOperator("**")) {
    const uint32_t at = Next().at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr right, Unary(WithFilter::kYes));
    JinjaExprPtr power = MakeJinjaExpr(ExprKind::kBinary, at, std::move(left), std::move(right));
    power->ops.push_back(JinjaOp::kPow);
    TF_ASSIGN_OR_RETURN(left, Finish(std::move(power)));
  }
  return left;
}

absl::StatusOr<JinjaExprPtr> JinjaExpressionParser::Unary(WithFilter filter) {
  JinjaExprPtr value;
  if (IsOperator("-") || IsOperator("+")) {
    TF_RETURN_IF_ERROR(Enter());
    const JinjaToken& op = Next();
    const JinjaOp kind = op.text == "-" ? JinjaOp::kNeg : JinjaOp::kPos;
    const uint32_t at = op.at;
    TF_ASSIGN_OR_RETURN(JinjaExprPtr operand, Unary(WithFilter::kNo));
    --nesting_;
    value = MakeJinjaExpr(ExprKind::kUnary, at, std::move(operand));
    value->ops.push_back(kind);
    TF_ASSIGN_OR_RETURN(value, Finish(std::move(value)));
  } else {
    TF_ASSIGN_OR_RETURN(value, Primary());
  }
  TF_ASSIGN_OR_RETURN(value, Postfix(std::move(value)));
  while (filter == WithFilter::kYes) {
    if (TakeOperator("|")) {
      TF_ASSIGN_OR_RETURN(value, OneFilter(std::move(value)));
    } else if (TakeName("is")) {
      TF_ASSIGN_OR_RETURN(value, Test(std::move(value)));
    } else if (IsOperator("(")) {
      TF_ASSIGN_OR_RETURN(value, Postfix(std::move(value)));
    } else {
      break;
    }
  }
  return value;
}

}  // namespace tokenferry
