// Values as text: as templates print them, and as JSON.
#pragma once

#include <optional>
#include <string>

#include "core/status.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace tokenferry {

std::string IntegerText(absl::int128 value);

// Python's str(): texts as they are, True, None, 21.5, ['a', 1]; undefined is empty.
absl::StatusOr<TaggedText> ToText(const JinjaValue& value, JinjaBudget& budget);
// Python's repr(): as ToText, but texts are quoted.
absl::StatusOr<TaggedText> ToRepr(const JinjaValue& value, JinjaBudget& budget);

struct JinjaJsonStyle {
  bool ensure_ascii = false;
  std::optional<TaggedText> indent;  // for each level; none: all on one line
  TaggedText item_separator{", ", TextOrigin::kModel}, key_separator{": ", TextOrigin::kModel};
  bool sort_keys = false;
};

// Python's json.dumps, as transformers calls it for tojson. InvalidArgument for what JSON has no word for.
absl::StatusOr<TaggedText> ToJson(const JinjaValue& value, const JinjaJsonStyle& style, JinjaBudget& budget);

}  // namespace tokenferry
