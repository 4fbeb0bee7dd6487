#include "runtime/text/jinja/loop.h"

#include "runtime/text/jinja/operators.h"

namespace tokenferry {

JinjaValue JinjaLoop::Attribute(absl::string_view name) {
  const auto size = static_cast<int64_t>(items.size());
  const auto i = static_cast<int64_t>(index);
  if (name == "index") return JinjaValue::Int(i + 1);
  if (name == "index0") return JinjaValue::Int(i);
  if (name == "revindex") return JinjaValue::Int(size - i);
  if (name == "revindex0") return JinjaValue::Int(size - i - 1);
  if (name == "first") return JinjaValue::Bool(i == 0);
  if (name == "last") return JinjaValue::Bool(i + 1 == size);
  if (name == "length") return JinjaValue::Int(size);
  if (name == "depth") return JinjaValue::Int(level_ + 1);
  if (name == "depth0") return JinjaValue::Int(level_);
  if (name == "previtem") {
    return index == 0 ? JinjaValue::Undefined("there is no previous item") : items[index - 1];
  }
  if (name == "nextitem") {
    return index + 1 >= items.size() ? JinjaValue::Undefined("there is no next item") : items[index + 1];
  }
  if (name == "cycle") return JinjaValue::Object(&cycle_);
  if (name == "changed") return JinjaValue::Object(&changed_);
  return JinjaObject::Attribute(name);
}

absl::StatusOr<JinjaValue> JinjaLoop::Cycle(JinjaRuntime&, const JinjaArguments& arguments) {
  if (arguments.args.empty()) return absl::InvalidArgumentError("no items for cycling given");
  return arguments.args[index % arguments.args.size()];
}

absl::StatusOr<JinjaValue> JinjaLoop::Changed(JinjaRuntime& runtime, const JinjaArguments& arguments) {
  TF_ASSIGN_OR_RETURN(JinjaValue values, runtime.List(arguments.args, JinjaSequenceKind::kTuple));
  TF_ASSIGN_OR_RETURN(const bool same, JinjaEqual(values, last_changed_, runtime.budget()));
  last_changed_ = std::move(values);
  return JinjaValue::Bool(!same);
}

absl::StatusOr<JinjaValue> JinjaLoop::Call(JinjaRuntime&, const JinjaArguments& arguments) {
  if (!node_.recursive) return absl::InvalidArgumentError("the loop must have the 'recursive' marker to be called");
  TF_ASSIGN_OR_RETURN(const auto args, arguments.Bind("loop", {"iterable"}, 1));
  TaggedText out;
  TF_RETURN_IF_ERROR(interpreter_.RunLoop(node_, args[0], level_ + 1, scope_, out));
  return JinjaValue::Text(std::move(out));
}

}  // namespace tokenferry
