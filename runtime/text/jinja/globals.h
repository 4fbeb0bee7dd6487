// What every template can name: range, dict, namespace, raise_exception, strftime_now.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/runtime.h"

namespace tokenferry {

// What `namespace(a=1)` gives: the one thing that templates can change.
class JinjaNamespace final : public JinjaObject {
 public:
  const char* type_name() const override { return "Namespace"; }
  JinjaValue Attribute(absl::string_view name) override;
  void Set(absl::string_view name, JinjaValue value);

 private:
  JinjaDict members_;
};

// By name. The objects are the runtime's.
absl::StatusOr<std::vector<std::pair<std::string, JinjaValue>>> JinjaGlobals(JinjaRuntime& runtime);

}  // namespace tokenferry
