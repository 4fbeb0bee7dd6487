// A template's text as tokens, white space already taken away as `-`, `+`, trim_blocks and lstrip_blocks say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

enum class JinjaTokenKind : uint8_t {
  kText,        // of the output; never empty
  kBlockBegin,  // {%
  kBlockEnd,    // %}
  kPrintBegin,  // {{
  kPrintEnd,    // }}
  kName,        // keywords among them
  kString,      // its value
  kInteger,
  kFloat,
  kOperator,
  kEnd,  // of the template, once
};

struct JinjaToken {
  JinjaTokenKind kind;
  uint32_t at;  // byte in the source as JinjaSource holds it
  std::string text;
};

// What errors need: the source and its name.
class JinjaSource {
 public:
  // Line ends become \n, and one at the end is dropped, as Jinja does.
  JinjaSource(absl::string_view text, absl::string_view name);
  const std::string& text() const { return text_; }
  // "NAME:LINE:COLUMN: WHAT"; line and column in characters, from 1.
  absl::Status Error(size_t at, absl::string_view what) const;
  absl::Status Place(size_t at, const absl::Status& status) const;  // the same, keeping the code

 private:
  std::string text_, name_;
};

// InvalidArgument: an unknown character, a string or comment without its end, brackets that do not match.
absl::StatusOr<std::vector<JinjaToken>> TokenizeJinja(const JinjaSource& source);

}  // namespace tokenferry
