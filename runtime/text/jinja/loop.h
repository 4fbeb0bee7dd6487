// The variable `loop` of a for; private to the interpreter.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/text/jinja/interpreter.h"

namespace tokenferry {

class JinjaLoop final : public JinjaObject {
 public:
  JinjaLoop(JinjaInterpreter& interpreter, const JinjaNode& node, JinjaScope& scope, std::vector<JinjaValue> all_items,
            int level)
      : items(std::move(all_items)), interpreter_(interpreter), node_(node), scope_(scope), level_(level) {}

  const char* type_name() const override { return "LoopContext"; }
  JinjaValue Attribute(absl::string_view name) override;
  // loop(list), in a recursive loop: what the loop prints for another list.
  bool is_callable() const override { return node_.recursive; }
  absl::StatusOr<JinjaValue> Call(JinjaRuntime& runtime, const JinjaArguments& arguments) override;

  const std::vector<JinjaValue> items;
  size_t index = 0;

 private:
  using Function = absl::StatusOr<JinjaValue> (JinjaLoop::*)(JinjaRuntime& runtime, const JinjaArguments& arguments);

  class Method final : public JinjaObject {
   public:
    Method(JinjaLoop& loop, Function function) : loop_(loop), function_(function) {}
    const char* type_name() const override { return "method"; }
    bool is_callable() const override { return true; }
    absl::StatusOr<JinjaValue> Call(JinjaRuntime& runtime, const JinjaArguments& arguments) override {
      return (loop_.*function_)(runtime, arguments);
    }

   private:
    JinjaLoop& loop_;
    Function function_;
  };

  absl::StatusOr<JinjaValue> Cycle(JinjaRuntime& runtime, const JinjaArguments& arguments);
  absl::StatusOr<JinjaValue> Changed(JinjaRuntime& runtime, const JinjaArguments& arguments);

  Method cycle_{*this, &JinjaLoop::Cycle}, changed_{*this, &JinjaLoop::Changed};
  JinjaInterpreter& interpreter_;
  const JinjaNode& node_;
  JinjaScope& scope_;
  const int level_;
  JinjaValue last_changed_;
};

}  // namespace tokenferry
