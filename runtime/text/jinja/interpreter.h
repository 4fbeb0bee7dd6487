// Runs a tree. One interpreter is one rendering.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/lexer.h"
#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

// Variables of a block; what it lacks is looked for around it. Names point into the tree, or live as long.
class JinjaScope final : public JinjaObject {
 public:
  explicit JinjaScope(JinjaScope* around) : around_(around) {}
  const char* type_name() const override { return "scope"; }
  const JinjaValue* Find(absl::string_view name) const;  // null: there is none, also not around
  void Set(absl::string_view name, JinjaValue value);    // here
  void Clear() { variables_.clear(); }
  // A macro sees this scope and those around it, which so must stay as they are.
  bool is_shared() const { return is_shared_; }
  void Share() {
    for (JinjaScope* scope = this; scope != nullptr; scope = scope->around_) scope->is_shared_ = true;
  }

 private:
  JinjaScope* around_;
  bool is_shared_ = false;
  std::vector<std::pair<absl::string_view, JinjaValue>> variables_;
};

class JinjaInterpreter {
 public:
  // All three must outlive it.
  JinjaInterpreter(const JinjaSource& source, JinjaRuntime& runtime) : source_(source), runtime_(runtime) {}

  // Appends what the nodes print. Errors say where: "NAME:LINE:COLUMN: WHAT".
  absl::Status Run(const JinjaBody& body, JinjaScope& scope, TaggedText& out);

 private:
  friend class JinjaMacro;
  friend class JinjaLoop;
  enum class Flow : uint8_t { kOn, kBreak, kContinue };
  using Result = absl::StatusOr<JinjaValue>;

  // Statements (interpreter.cc).
  absl::StatusOr<Flow> RunBody(const JinjaBody& body, JinjaScope& scope, TaggedText& out);
  absl::StatusOr<Flow> RunNode(const JinjaNode& node, JinjaScope& scope, TaggedText& out);
  absl::StatusOr<Flow> RunIf(const JinjaNode& node, JinjaScope& scope, TaggedText& out);
  absl::StatusOr<Flow> RunFor(const JinjaNode& node, JinjaScope& scope, TaggedText& out);
  absl::Status RunLoop(const JinjaNode& node, const JinjaValue& list, int level, JinjaScope& scope, TaggedText& out);
  absl::StatusOr<std::vector<JinjaValue>> LoopItems(const JinjaNode& node, const JinjaValue& list, JinjaScope& scope);
  absl::Status RunSet(const JinjaNode& node, JinjaScope& scope);
  absl::StatusOr<Flow> RunWith(const JinjaNode& node, JinjaScope& scope, TaggedText& out);
  absl::Status RunCall(const JinjaNode& node, JinjaScope& scope, TaggedText& out);
  absl::StatusOr<TaggedText> RunApart(const JinjaBody& body, JinjaScope& scope);  // in a scope of its own
  // A filter of the empty text that stands for `text`; see JinjaNode::Kind::kFilter.
  Result Filtered(const JinjaExpr& filter, JinjaValue text, JinjaScope& scope);
  absl::Status Assign(const JinjaExpr& target, JinjaValue value, JinjaScope& scope);
  absl::Status Print(const JinjaValue& value, TaggedText& out);

  // Expressions (evaluate.cc).
  Result Evaluate(const JinjaExpr& expr, JinjaScope& scope);
  Result EvaluateKind(const JinjaExpr& expr, JinjaScope& scope);
  Result EvaluateOptional(const JinjaExprPtr& expr, JinjaScope& scope);  // undefined where there is none
  Result EvaluateList(const JinjaExpr& expr, JinjaScope& scope);
  Result EvaluateDict(const JinjaExpr& expr, JinjaScope& scope);
  Result EvaluateCompare(const JinjaExpr& expr, JinjaScope& scope);
  Result EvaluateConcat(const JinjaExpr& expr, JinjaScope& scope);
  Result EvaluateCall(const JinjaExpr& expr, JinjaScope& scope, const JinjaValue* caller);
  Result ApplyFilter(const JinjaExpr& filter, const JinjaValue& value, JinjaScope& scope);
  Result ApplyTest(const JinjaExpr& test, const JinjaValue& value, JinjaScope& scope);
  // Its args and kwargs, evaluated.
  absl::StatusOr<JinjaArguments> EvaluateArguments(const JinjaExpr& expr, JinjaScope& scope);

  // The error with the place of `at`, unless it has one already.
  absl::Status Place(uint32_t at, const absl::Status& status) const;
  template <class T>
  absl::StatusOr<T> Placed(uint32_t at, absl::StatusOr<T> result) const {
    if (!result.ok()) return Place(at, result.status());
    return result;
  }

  const JinjaSource& source_;
  JinjaRuntime& runtime_;
  int depth_ = 0;  // of bodies, expressions and calls in one another
};

}  // namespace tokenferry
