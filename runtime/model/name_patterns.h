// Patterns of module names, as quantization_config lists them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// Immutable; any thread may call it.
class NamePatterns {
 public:
  // "re:EXPRESSION" matches names that begin with a match (Python's re.match). Anything else is a run of whole
  // components: "lm_head", "model.layers.*.self_attn", where * stands for any characters. InvalidArgument names the
  // pattern, and what is wrong with it.
  static absl::StatusOr<NamePatterns> Compile(const std::vector<std::string>& patterns);

  // The first pattern that matches "model.layers.0.self_attn.q_proj"; null: none does. InvalidArgument, naming pattern
  // and name, when the matcher gives up: an expression that tries too many ways, or nests too deeply.
  absl::StatusOr<const std::string*> FindMatch(absl::string_view name) const;

 private:
  struct Code;
  struct Pattern {
    std::string text;
    std::shared_ptr<const Code> code;
  };
  std::vector<Pattern> patterns_;
};

}  // namespace tokenferry
