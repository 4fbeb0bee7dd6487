// The methods of texts, dicts and lists that templates may call. Those that would change a value are refused, as in
// transformers' sandbox.
#pragma once

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

using JinjaMethod = absl::StatusOr<JinjaValue> (*)(JinjaRuntime& runtime, const JinjaValue& self,
                                                   const JinjaArguments& arguments);

// Null: values like `self` have no such method.
JinjaMethod FindTextMethod(absl::string_view name);
JinjaMethod FindJinjaMethod(const JinjaValue& self, absl::string_view name);

// Pays for the text that it goes over, and calls it.
absl::StatusOr<JinjaValue> CallJinjaMethod(JinjaRuntime& runtime, JinjaMethod method, const JinjaValue& self,
                                           const JinjaArguments& arguments);

// `self.method`, not called yet.
class JinjaBoundMethod final : public JinjaObject {
 public:
  JinjaBoundMethod(JinjaValue self, JinjaMethod method) : self_(std::move(self)), method_(method) {}
  const char* type_name() const override { return "method"; }
  bool is_callable() const override { return true; }
  absl::StatusOr<JinjaValue> Call(JinjaRuntime& runtime, const JinjaArguments& arguments) override {
    return CallJinjaMethod(runtime, method_, self_, arguments);
  }

 private:
  JinjaValue self_;
  JinjaMethod method_;
};

}  // namespace tokenferry
