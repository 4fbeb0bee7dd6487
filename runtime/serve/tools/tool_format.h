// How models write calls of tools into their text.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/text/chat/chat_template.h"

namespace tokenferry {

// calls_begin? (call_begin HEAD ARGUMENTS TAIL call_end)+ calls_end?, where ARGUMENTS is a JSON object. HEAD is
// before_name NAME before_arguments, TAIL after_arguments. White space may stand between any two of these words.
struct ToolFormat {
  absl::string_view calls_begin, calls_end;  // empty: there are none
  absl::string_view call_begin, call_end;
  std::vector<absl::string_view> before_name, before_arguments, after_arguments;
  // The same as models write it: call_begin written_before_name NAME written_before_arguments ARGUMENTS
  // written_after_arguments call_end, and written_between two calls.
  absl::string_view written_before_name, written_before_arguments, written_after_arguments, written_between;
  bool body_is_json = false;  // HEAD ARGUMENTS TAIL is a JSON object, whose members may have another order
};

// <tool_call>\n{"name": "f", "arguments": {..}}\n</tool_call>: Hermes, Qwen2.5, Qwen3.
const ToolFormat& HermesFormat();
// <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{..}\n```<｜tool▁call▁end｜>..:
// DeepSeek-V3 and R1.
const ToolFormat& DeepSeekV3Format();
// The same with f<｜tool▁sep｜>{..} in between: DeepSeek-V3.1.
const ToolFormat& DeepSeekV31Format();

// The one that the template teaches; null: none of these.
const ToolFormat* ToolFormatOf(const ChatTemplate& chat_template);

}  // namespace tokenferry
