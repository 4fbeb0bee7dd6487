#include "runtime/text/jinja/tests.h"

#include <utility>

#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/python_text.h"
#include "runtime/text/jinja/text_ops.h"

namespace tokenferry {
namespace {

using TestResult = absl::StatusOr<bool>;

using Predicate = bool (*)(const JinjaValue&);

template <Predicate kPredicate>
TestResult Is(JinjaRuntime&, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_RETURN_IF_ERROR(arguments.Bind("the test", {}, 0).status());
  return kPredicate(value);
}

bool IsDefined(const JinjaValue& v) { return !v.is_undefined(); }
bool IsUndefined(const JinjaValue& v) { return v.is_undefined(); }
bool IsNone(const JinjaValue& v) { return v.is_none(); }
bool IsText(const JinjaValue& v) { return v.text() != nullptr; }
bool IsMapping(const JinjaValue& v) { return v.dict() != nullptr; }
bool IsNumber(const JinjaValue& v) { return v.is_number(); }
bool IsInteger(const JinjaValue& v) { return v.integer() != nullptr; }
bool IsFloat(const JinjaValue& v) { return v.real() != nullptr; }
bool IsBoolean(const JinjaValue& v) { return v.boolean() != nullptr; }
bool IsTrue(const JinjaValue& v) { return v.boolean() != nullptr && *v.boolean(); }
bool IsFalse(const JinjaValue& v) { return v.boolean() != nullptr && !*v.boolean(); }
bool IsIterable(const JinjaValue& v) {
  return v.is_undefined() || v.text() != nullptr || v.sequence() != nullptr || v.dict() != nullptr;
}
bool IsSequence(const JinjaValue& v) {  // Jinja: what has a length and elements, so dicts and texts too
  return IsIterable(v) && (v.sequence() == nullptr || v.sequence()->kind != JinjaSequenceKind::kGenerator);
}
bool IsCallable(const JinjaValue& v) { return v.object() != nullptr && v.object()->is_callable(); }
bool IsEscaped(const JinjaValue&) { return false; }  // nothing is: templates of models have no autoescape

template <JinjaOp kOp>
TestResult Compare(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("the test", {"other"}, 1));
  return JinjaCompare(kOp, value, args[0], runtime);
}

absl::StatusOr<bool> IsDivisible(const JinjaValue& value, const JinjaValue& by, JinjaRuntime& runtime) {
  TF_ASSIGN_OR_RETURN(const JinjaValue rest, JinjaArithmetic(JinjaOp::kMod, value, by, runtime));
  return !rest.Truthy();
}

TestResult Even(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments&) {
  return IsDivisible(value, JinjaValue::Int(2), runtime);
}
TestResult Odd(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments&) {
  TF_ASSIGN_OR_RETURN(const bool even, IsDivisible(value, JinjaValue::Int(2), runtime));
  return !even;
}
TestResult DivisibleBy(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("divisibleby", {"num"}, 1));
  return IsDivisible(value, args[0], runtime);
}

// `is` of Python, as far as templates can tell: equal, and of the same type.
TestResult SameAs(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("sameas", {"other"}, 1));
  if (absl::string_view(value.TypeName()) != args[0].TypeName()) return false;
  return JinjaEqual(value, args[0], runtime.budget());
}

template <CaseRule kRule>
TestResult InCase(JinjaRuntime& runtime, const JinjaValue& value, const JinjaArguments&) {
  TF_ASSIGN_OR_RETURN(const TaggedText* text, ExpectText(value, "what a test of case looks at"));
  TF_RETURN_IF_ERROR(runtime.budget().Text(static_cast<int64_t>(text->size())));
  return !text->empty() && ChangeCase(*text, kRule).text() == text->text();
}

TestResult IsFilterName(JinjaRuntime&, const JinjaValue& value, const JinjaArguments&) {
  return value.text() != nullptr && IsJinjaFilter(value.text()->text());
}
TestResult IsTestName(JinjaRuntime&, const JinjaValue& value, const JinjaArguments&) {
  return value.text() != nullptr && IsJinjaTest(value.text()->text());
}

constexpr std::pair<absl::string_view, JinjaTest> kTests[] = {
    {"!=", Compare<JinjaOp::kNe>},
    {"<", Compare<JinjaOp::kLt>},
    {"<=", Compare<JinjaOp::kLe>},
    {"==", Compare<JinjaOp::kEq>},
    {">", Compare<JinjaOp::kGt>},
    {">=", Compare<JinjaOp::kGe>},
    {"boolean", Is<IsBoolean>},
    {"callable", Is<IsCallable>},
    {"defined", Is<IsDefined>},
    {"divisibleby", DivisibleBy},
    {"eq", Compare<JinjaOp::kEq>},
    {"equalto", Compare<JinjaOp::kEq>},
    {"escaped", Is<IsEscaped>},
    {"even", Even},
    {"false", Is<IsFalse>},
    {"filter", IsFilterName},
    {"float", Is<IsFloat>},
    {"ge", Compare<JinjaOp::kGe>},
    {"greaterthan", Compare<JinjaOp::kGt>},
    {"gt", Compare<JinjaOp::kGt>},
    {"in", Compare<JinjaOp::kIn>},
    {"integer", Is<IsInteger>},
    {"iterable", Is<IsIterable>},
    {"le", Compare<JinjaOp::kLe>},
    {"lessthan", Compare<JinjaOp::kLt>},
    {"lower", InCase<CaseRule::kLower>},
    {"lt", Compare<JinjaOp::kLt>},
    {"mapping", Is<IsMapping>},
    {"ne", Compare<JinjaOp::kNe>},
    {"none", Is<IsNone>},
    {"number", Is<IsNumber>},
    {"odd", Odd},
    {"sameas", SameAs},
    {"sequence", Is<IsSequence>},
    {"string", Is<IsText>},
    {"test", IsTestName},
    {"true", Is<IsTrue>},
    {"undefined", Is<IsUndefined>},
    {"upper", InCase<CaseRule::kUpper>},
};

}  // namespace

JinjaTest FindJinjaTest(absl::string_view name) {
  for (const auto& [known, test] : kTests) {
    if (name == known) return test;
  }
  return nullptr;
}

}  // namespace tokenferry
