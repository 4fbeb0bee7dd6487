#include "runtime/text/jinja/interpreter.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/cord.h"
#include "runtime/text/jinja/globals.h"
#include "runtime/text/jinja/loop.h"
#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/value_text.h"

namespace tokenferry {
namespace {

using NodeKind = JinjaNode::Kind;

constexpr char kPlaced[] = "tokenferry/jinja/placed";  // payload of an error that says where it happened

}  // namespace

const JinjaValue* JinjaScope::Find(absl::string_view name) const {
  for (const JinjaScope* scope = this; scope != nullptr; scope = scope->around_) {
    for (const auto& [known, value] : scope->variables_) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void JinjaScope::Set(absl::string_view name, JinjaValue value) {
  for (auto& [known, old] : variables_) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  variables_.emplace_back(name, std::move(value));
}

// A macro, or the body of a call block. Sees the scope in which it was defined.
class JinjaMacro final : public JinjaObject {
 public:
  JinjaMacro(JinjaInterpreter& interpreter, const JinjaNode& node, JinjaScope& scope)
      : interpreter_(interpreter), node_(node), scope_(scope) {}
  const char* type_name() const override { return "macro"; }
  bool is_callable() const override { return true; }

  absl::StatusOr<JinjaValue> Call(JinjaRuntime& runtime, const JinjaArguments& arguments) override {
    TF_ASSIGN_OR_RETURN(JinjaScope * scope, runtime.New<JinjaScope>(&scope_));
    const std::vector<std::string>& names = node_.parameters.names;
    std::vector<bool> given(names.size());
    std::vector<JinjaValue> more;
    for (size_t i = 0; i < arguments.args.size(); ++i) {
      if (i < names.size()) {
        scope->Set(names[i], arguments.args[i]);
        given[i] = true;
      } else {
        more.push_back(arguments.args[i]);
      }
    }
    JinjaDict more_by_name;
    for (const auto& [name, value] : arguments.kwargs) {
      const auto it = std::find(names.begin(), names.end(), name);
      const auto i = static_cast<size_t>(it - names.begin());
      if (it != names.end() && given[i]) {
        return absl::InvalidArgumentError(absl::StrCat("macro '", node_.text, "' gets argument '", name, "' twice"));
      }
      if (it != names.end()) {
        scope->Set(names[i], value);
        given[i] = true;
      } else if (name == "caller") {
        scope->Set("caller", value);
      } else {
        more_by_name.Set(name, value);
      }
    }
    TF_ASSIGN_OR_RETURN(JinjaValue varargs, runtime.List(std::move(more), JinjaSequenceKind::kTuple));
    TF_ASSIGN_OR_RETURN(JinjaValue kwargs, runtime.Dict(std::move(more_by_name)));
    scope->Set("varargs", std::move(varargs));
    scope->Set("kwargs", std::move(kwargs));
    const size_t first_default = names.size() - node_.parameters.defaults.size();
    for (size_t i = 0; i < names.size(); ++i) {
      if (given[i]) continue;
      JinjaValue value = JinjaValue::Undefined(absl::StrCat("parameter '", names[i], "' was not provided"));
      if (i >= first_default) {
        TF_ASSIGN_OR_RETURN(value, interpreter_.Evaluate(*node_.parameters.defaults[i - first_default], *scope));
      }
      scope->Set(names[i], std::move(value));
    }
    TaggedText out;
    TF_RETURN_IF_ERROR(interpreter_.RunBody(node_.bodies[0], *scope, out).status());
    return JinjaValue::Text(std::move(out));
  }

 private:
  JinjaInterpreter& interpreter_;
  const JinjaNode& node_;
  JinjaScope& scope_;
};

absl::Status JinjaInterpreter::Place(uint32_t at, const absl::Status& status) const {
  if (status.ok() || status.GetPayload(kPlaced)) return status;
  absl::Status placed = source_.Place(at, status);
  placed.SetPayload(kPlaced, absl::Cord());
  return placed;
}

absl::Status JinjaInterpreter::Run(const JinjaBody& body, JinjaScope& scope, TaggedText& out) {
  absl::Status status = RunBody(body, scope, out).status();
  status.ErasePayload(kPlaced);
  return status;
}

absl::Status JinjaInterpreter::Print(const JinjaValue& value, TaggedText& out) {
  if (value.text() == nullptr) {
    TF_ASSIGN_OR_RETURN(const TaggedText text, ToText(value, runtime_.budget()));
    out.Append(text);
  } else {
    TF_RETURN_IF_ERROR(runtime_.budget().Text(static_cast<int64_t>(value.text()->size())));
    out.Append(*value.text());
  }
  return runtime_.budget().Grown(static_cast<int64_t>(out.size()));
}

absl::StatusOr<JinjaInterpreter::Flow> JinjaInterpreter::RunBody(const JinjaBody& body, JinjaScope& scope,
                                                                 TaggedText& out) {
  TF_RETURN_IF_ERROR(runtime_.budget().Depth(++depth_));
  const absl::Cleanup leave = [this] { --depth_; };
  for (const JinjaNode& node : body) {
    TF_RETURN_IF_ERROR(Place(node.at, runtime_.budget().Steps(1)));
    TF_ASSIGN_OR_RETURN(const Flow flow, Placed(node.at, RunNode(node, scope, out)));
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

absl::StatusOr<JinjaInterpreter::Flow> JinjaInterpreter::RunNode(const JinjaNode& node, JinjaScope& scope,
                                                                 TaggedText& out) {
  switch (node.kind) {
    case NodeKind::kText:
      out.Append(node.text, TextOrigin::kModel);
      TF_RETURN_IF_ERROR(runtime_.budget().Grown(static_cast<int64_t>(out.size())));
      return Flow::kOn;
    case NodeKind::kPrint: {
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*node.exprs[0], scope));
      TF_RETURN_IF_ERROR(Print(value, out));
      return Flow::kOn;
    }
    case NodeKind::kIf:
      return RunIf(node, scope, out);
    case NodeKind::kFor:
      return RunFor(node, scope, out);
    case NodeKind::kSet:
    case NodeKind::kSetBlock:
      TF_RETURN_IF_ERROR(RunSet(node, scope));
      return Flow::kOn;
    case NodeKind::kWith:
      return RunWith(node, scope, out);
    case NodeKind::kMacro: {
      scope.Share();
      TF_ASSIGN_OR_RETURN(JinjaMacro * macro, runtime_.New<JinjaMacro>(*this, node, scope));
      scope.Set(node.text, JinjaValue::Object(macro));
      return Flow::kOn;
    }
    case NodeKind::kCall:
      TF_RETURN_IF_ERROR(RunCall(node, scope, out));
      return Flow::kOn;
    case NodeKind::kFilter: {
      TF_ASSIGN_OR_RETURN(TaggedText text, RunApart(node.bodies[0], scope));
      TF_ASSIGN_OR_RETURN(const JinjaValue value, Filtered(*node.exprs[0], JinjaValue::Text(std::move(text)), scope));
      TF_RETURN_IF_ERROR(Print(value, out));
      return Flow::kOn;
    }
    case NodeKind::kBreak:
      return Flow::kBreak;
    case NodeKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

absl::StatusOr<JinjaInterpreter::Flow> JinjaInterpreter::RunIf(const JinjaNode& node, JinjaScope& scope,
                                                               TaggedText& out) {
  for (size_t i = 0; i < node.bodies.size(); ++i) {
    if (i < node.exprs.size()) {
      TF_ASSIGN_OR_RETURN(const JinjaValue condition, Evaluate(*node.exprs[i], scope));
      if (!condition.Truthy()) continue;
    }
    return RunBody(node.bodies[i], scope, out);
  }
  return Flow::kOn;
}

absl::StatusOr<JinjaInterpreter::Flow> JinjaInterpreter::RunFor(const JinjaNode& node, JinjaScope& scope,
                                                                TaggedText& out) {
  TF_ASSIGN_OR_RETURN(const JinjaValue list, Evaluate(*node.exprs[1], scope));
  TF_RETURN_IF_ERROR(RunLoop(node, list, 0, scope, out));
  return Flow::kOn;
}

// The elements that pass the loop's condition.
absl::StatusOr<std::vector<JinjaValue>> JinjaInterpreter::LoopItems(const JinjaNode& node, const JinjaValue& list,
                                                                    JinjaScope& scope) {
  TF_ASSIGN_OR_RETURN(std::vector<JinjaValue> items, runtime_.Iterate(list));
  if (node.exprs[2] == nullptr) return items;
  std::vector<JinjaValue> kept;
  TF_ASSIGN_OR_RETURN(JinjaScope * inner, runtime_.New<JinjaScope>(&scope));
  for (JinjaValue& item : items) {
    TF_RETURN_IF_ERROR(Assign(*node.exprs[0], item, *inner));
    TF_ASSIGN_OR_RETURN(const JinjaValue condition, Evaluate(*node.exprs[2], *inner));
    if (condition.Truthy()) kept.push_back(std::move(item));
  }
  return kept;
}

absl::Status JinjaInterpreter::RunLoop(const JinjaNode& node, const JinjaValue& list, int level, JinjaScope& scope,
                                       TaggedText& out) {
  TF_RETURN_IF_ERROR(runtime_.budget().Depth(++depth_));
  const absl::Cleanup leave = [this] { --depth_; };
  TF_ASSIGN_OR_RETURN(std::vector<JinjaValue> items, LoopItems(node, list, scope));
  if (items.empty()) {
    TF_ASSIGN_OR_RETURN(JinjaScope * inner, runtime_.New<JinjaScope>(&scope));
    return RunBody(node.bodies[1], *inner, out).status();
  }
  TF_ASSIGN_OR_RETURN(JinjaLoop * loop, runtime_.New<JinjaLoop>(*this, node, scope, std::move(items), level));
  JinjaScope* inner = nullptr;
  for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
    if (inner == nullptr || inner->is_shared()) {
      TF_ASSIGN_OR_RETURN(inner, runtime_.New<JinjaScope>(&scope));
    }
    inner->Clear();
    inner->Set("loop", JinjaValue::Object(loop));
    TF_RETURN_IF_ERROR(Assign(*node.exprs[0], loop->items[loop->index], *inner));
    TF_ASSIGN_OR_RETURN(const Flow flow, RunBody(node.bodies[0], *inner, out));
    if (flow == Flow::kBreak) break;
  }
  return absl::OkStatus();
}

absl::Status JinjaInterpreter::Assign(const JinjaExpr& target, JinjaValue value, JinjaScope& scope) {
  if (target.kind == JinjaExpr::Kind::kName) {
    scope.Set(target.name, std::move(value));
    return absl::OkStatus();
  }
  if (target.kind == JinjaExpr::Kind::kAttr) {
    TF_ASSIGN_OR_RETURN(const JinjaValue owner, Evaluate(*target.args[0], scope));
    auto* space = dynamic_cast<JinjaNamespace*>(owner.object());
    if (space == nullptr) {
      return Place(target.at, absl::InvalidArgumentError("cannot assign attribute on non-namespace object"));
    }
    space->Set(target.name, std::move(value));
    return absl::OkStatus();
  }
  TF_ASSIGN_OR_RETURN(std::vector<JinjaValue> parts, Placed(target.at, runtime_.Iterate(value)));
  if (parts.size() != target.args.size()) {
    return Place(target.at, absl::InvalidArgumentError(absl::StrCat("expected ", target.args.size(),
                                                                    " values to unpack, got ", parts.size())));
  }
  for (size_t i = 0; i < parts.size(); ++i) TF_RETURN_IF_ERROR(Assign(*target.args[i], std::move(parts[i]), scope));
  return absl::OkStatus();
}

absl::StatusOr<TaggedText> JinjaInterpreter::RunApart(const JinjaBody& body, JinjaScope& scope) {
  TF_ASSIGN_OR_RETURN(JinjaScope * inner, runtime_.New<JinjaScope>(&scope));
  TaggedText text;
  TF_RETURN_IF_ERROR(RunBody(body, *inner, text).status());
  return text;
}

absl::StatusOr<JinjaValue> JinjaInterpreter::Filtered(const JinjaExpr& filter, JinjaValue text, JinjaScope& scope) {
  if (filter.kind == JinjaExpr::Kind::kConst) return text;  // the empty text that stands for this one
  TF_ASSIGN_OR_RETURN(JinjaValue value, Filtered(*filter.args[0], std::move(text), scope));
  return Placed(filter.at, ApplyFilter(filter, value, scope));
}

absl::Status JinjaInterpreter::RunSet(const JinjaNode& node, JinjaScope& scope) {
  if (node.kind == NodeKind::kSet) {
    TF_ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*node.exprs[1], scope));
    return Assign(*node.exprs[0], std::move(value), scope);
  }
  TF_ASSIGN_OR_RETURN(TaggedText text, RunApart(node.bodies[0], scope));
  JinjaValue value = JinjaValue::Text(std::move(text));
  if (node.exprs[1] != nullptr) {
    TF_ASSIGN_OR_RETURN(value, Filtered(*node.exprs[1], std::move(value), scope));
  }
  return Assign(*node.exprs[0], std::move(value), scope);
}

absl::StatusOr<JinjaInterpreter::Flow> JinjaInterpreter::RunWith(const JinjaNode& node, JinjaScope& scope,
                                                                 TaggedText& out) {
  TF_ASSIGN_OR_RETURN(JinjaScope * inner, runtime_.New<JinjaScope>(&scope));
  for (size_t i = 0; i < node.exprs.size(); i += 2) {
    TF_ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*node.exprs[i + 1], scope));
    TF_RETURN_IF_ERROR(Assign(*node.exprs[i], std::move(value), *inner));
  }
  return RunBody(node.bodies[0], *inner, out);
}

absl::Status JinjaInterpreter::RunCall(const JinjaNode& node, JinjaScope& scope, TaggedText& out) {
  scope.Share();
  TF_ASSIGN_OR_RETURN(JinjaMacro * macro, runtime_.New<JinjaMacro>(*this, node, scope));
  const JinjaValue caller = JinjaValue::Object(macro);
  TF_ASSIGN_OR_RETURN(const JinjaValue value, Placed(node.exprs[0]->at, EvaluateCall(*node.exprs[0], scope, &caller)));
  return Print(value, out);
}

}  // namespace tokenferry
