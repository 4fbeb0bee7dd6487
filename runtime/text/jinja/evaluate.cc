// The interpreter's expressions.
#include "absl/cleanup/cleanup.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/lookup.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/tests.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {

using ExprKind = JinjaExpr::Kind;

absl::StatusOr<JinjaValue> JinjaInterpreter::Evaluate(const JinjaExpr& expr, JinjaScope& scope) {
  TF_RETURN_IF_ERROR(Place(expr.at, runtime_.budget().Steps(1)));
  TF_RETURN_IF_ERROR(Place(expr.at, runtime_.budget().Depth(++depth_)));
  const absl::Cleanup leave = [this] { --depth_; };
  return Placed(expr.at, EvaluateKind(expr, scope));
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateKind(const JinjaExpr& expr, JinjaScope& scope) {
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.constant;
    case ExprKind::kName: {
      const JinjaValue* value = scope.Find(expr.name);
      return value != nullptr ? *value : JinjaValue::Undefined(absl::StrCat("'", expr.name, "' is undefined"));
    }
    case ExprKind::kList:
    case ExprKind::kTuple:
      return EvaluateList(expr, scope);
    case ExprKind::kDict:
      return EvaluateDict(expr, scope);
    case ExprKind::kUnary: {
      TF_ASSIGN_OR_RETURN(const JinjaValue operand, Evaluate(*expr.args[0], scope));
      TF_ASSIGN_OR_RETURN(JinjaValue negative, JinjaNegative(operand));
      return expr.ops[0] == JinjaOp::kNeg ? negative : operand;
    }
    case ExprKind::kBinary: {
      TF_ASSIGN_OR_RETURN(const JinjaValue left, Evaluate(*expr.args[0], scope));
      TF_ASSIGN_OR_RETURN(const JinjaValue right, Evaluate(*expr.args[1], scope));
      return JinjaArithmetic(expr.ops[0], left, right, runtime_);
    }
    case ExprKind::kCompare:
      return EvaluateCompare(expr, scope);
    case ExprKind::kConcat:
      return EvaluateConcat(expr, scope);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      TF_ASSIGN_OR_RETURN(JinjaValue left, Evaluate(*expr.args[0], scope));
      return left.Truthy() == (expr.kind == ExprKind::kOr) ? left : Evaluate(*expr.args[1], scope);
    }
    case ExprKind::kNot: {
      TF_ASSIGN_OR_RETURN(const JinjaValue operand, Evaluate(*expr.args[0], scope));
      return JinjaValue::Bool(!operand.Truthy());
    }
    case ExprKind::kIf: {
      TF_ASSIGN_OR_RETURN(const JinjaValue condition, Evaluate(*expr.args[0], scope));
      if (condition.Truthy()) return Evaluate(*expr.args[1], scope);
      if (expr.args[2] != nullptr) return Evaluate(*expr.args[2], scope);
      return JinjaValue::Undefined("the inline if-expression was false and has no else");
    }
    case ExprKind::kAttr: {
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*expr.args[0], scope));
      return GetJinjaAttr(runtime_, value, expr.name);
    }
    case ExprKind::kItem: {
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*expr.args[0], scope));
      TF_ASSIGN_OR_RETURN(const JinjaValue index, Evaluate(*expr.args[1], scope));
      return GetJinjaItem(runtime_, value, index);
    }
    case ExprKind::kSlice: {
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*expr.args[0], scope));
      TF_ASSIGN_OR_RETURN(const JinjaValue start, EvaluateOptional(expr.args[1], scope));
      TF_ASSIGN_OR_RETURN(const JinjaValue stop, EvaluateOptional(expr.args[2], scope));
      TF_ASSIGN_OR_RETURN(const JinjaValue step, EvaluateOptional(expr.args[3], scope));
      return JinjaSlice(value, start, stop, step, runtime_);
    }
    case ExprKind::kCall:
      return EvaluateCall(expr, scope, nullptr);
    case ExprKind::kFilter: {
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*expr.args[0], scope));
      return ApplyFilter(expr, value, scope);
    }
    case ExprKind::kTest: {
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*expr.args[0], scope));
      return ApplyTest(expr, value, scope);
    }
  }
  return JinjaValue();
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateOptional(const JinjaExprPtr& expr, JinjaScope& scope) {
  if (expr == nullptr) return JinjaValue();
  return Evaluate(*expr, scope);
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateList(const JinjaExpr& expr, JinjaScope& scope) {
  std::vector<JinjaValue> items;
  for (const JinjaExprPtr& arg : expr.args) {
    TF_ASSIGN_OR_RETURN(JinjaValue item, Evaluate(*arg, scope));
    items.push_back(std::move(item));
  }
  return runtime_.List(std::move(items),
                       expr.kind == ExprKind::kTuple ? JinjaSequenceKind::kTuple : JinjaSequenceKind::kList);
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateDict(const JinjaExpr& expr, JinjaScope& scope) {
  JinjaDict dict;
  for (size_t i = 0; i < expr.args.size(); i += 2) {
    TF_ASSIGN_OR_RETURN(const JinjaValue key, Evaluate(*expr.args[i], scope));
    TF_ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expr.args[i + 1], scope));
    if (!dict.Set(key, std::move(value))) {
      return absl::InvalidArgumentError(absl::StrCat("a key must not be of type ", key.TypeName()));
    }
  }
  return runtime_.Dict(std::move(dict));
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateCompare(const JinjaExpr& expr, JinjaScope& scope) {
  TF_ASSIGN_OR_RETURN(JinjaValue left, Evaluate(*expr.args[0], scope));
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    TF_ASSIGN_OR_RETURN(JinjaValue right, Evaluate(*expr.args[i + 1], scope));
    TF_ASSIGN_OR_RETURN(const bool holds, JinjaCompare(expr.ops[i], left, right, runtime_));
    if (!holds) return JinjaValue::Bool(false);
    left = std::move(right);
  }
  return JinjaValue::Bool(true);
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateConcat(const JinjaExpr& expr, JinjaScope& scope) {
  TaggedText out;
  for (const JinjaExprPtr& arg : expr.args) {
    TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*arg, scope));
    TF_RETURN_IF_ERROR(Print(value, out));
  }
  return JinjaValue::Text(std::move(out));
}

absl::StatusOr<JinjaArguments> JinjaInterpreter::EvaluateArguments(const JinjaExpr& expr, JinjaScope& scope) {
  JinjaArguments arguments;
  for (size_t i = 1; i < expr.args.size(); ++i) {
    TF_ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expr.args[i], scope));
    arguments.args.push_back(std::move(value));
  }
  for (const auto& [name, arg] : expr.kwargs) {
    TF_ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*arg, scope));
    arguments.kwargs.emplace_back(name, std::move(value));
  }
  return arguments;
}

absl::StatusOr<JinjaValue> JinjaInterpreter::EvaluateCall(const JinjaExpr& expr, JinjaScope& scope,
                                                          const JinjaValue* caller) {
  const JinjaExpr& callee = *expr.args[0];
  JinjaValue self;
  JinjaMethod method = nullptr;
  JinjaValue function;
  if (callee.kind == ExprKind::kAttr) {  // a method, most often: no need for an object that binds it
    TF_ASSIGN_OR_RETURN(self, Evaluate(*callee.args[0], scope));
    method = FindJinjaMethod(self, callee.name);
    if (method == nullptr) {
      TF_ASSIGN_OR_RETURN(function, Placed(callee.at, GetJinjaAttr(runtime_, self, callee.name)));
    }
  } else {
    TF_ASSIGN_OR_RETURN(function, Evaluate(callee, scope));
  }
  TF_ASSIGN_OR_RETURN(JinjaArguments arguments, EvaluateArguments(expr, scope));
  if (caller != nullptr) arguments.kwargs.emplace_back("caller", *caller);
  if (method != nullptr) return Placed(callee.at, CallJinjaMethod(runtime_, method, self, arguments));
  TF_RETURN_IF_ERROR(CheckDefined(function));
  if (function.object() != nullptr) return function.object()->Call(runtime_, arguments);
  return absl::InvalidArgumentError(absl::StrCat("'", function.TypeName(), "' object is not callable"));
}

absl::StatusOr<JinjaValue> JinjaInterpreter::ApplyFilter(const JinjaExpr& filter, const JinjaValue& value,
                                                         JinjaScope& scope) {
  TF_ASSIGN_OR_RETURN(const JinjaArguments arguments, EvaluateArguments(filter, scope));
  return CallJinjaMethod(runtime_, FindJinjaFilter(filter.name), value, arguments);  // the parser knows it is there
}

absl::StatusOr<JinjaValue> JinjaInterpreter::ApplyTest(const JinjaExpr& test, const JinjaValue& value,
                                                       JinjaScope& scope) {
  TF_ASSIGN_OR_RETURN(const JinjaArguments arguments, EvaluateArguments(test, scope));
  TF_ASSIGN_OR_RETURN(const bool passes, FindJinjaTest(test.name)(runtime_, value, arguments));
  return JinjaValue::Bool(passes);
}

}  // namespace tokenferry
