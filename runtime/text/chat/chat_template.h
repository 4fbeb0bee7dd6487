// A model's chat template: from a conversation to the text, and the tokens, that the model was trained to continue.
//
// Templates are Jinja2 as Hugging Face's transformers runs it (apply_chat_template): trim_blocks, lstrip_blocks,
// break and continue, its own tojson, raise_exception and strftime_now; see runtime/text/jinja/template.h for the
// language.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "absl/types/span.h"
#include "core/status.h"
#include "runtime/text/jinja/template.h"
#include "runtime/text/jinja/value.h"
#include "runtime/text/tagged_text.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {

enum class NextTurn : uint8_t {
  kNone,       // the text ends with the last message
  kAssistant,  // the text ends where the answer begins (add_generation_prompt)
};

// Values come from JSON by ParseJinjaJson (jinja/value_json.h), which keeps the order of keys and tags all their text
// as TextOrigin::kMessage.
struct ChatInput {
  JinjaValue messages;   // a list of objects
  JinjaValue tools;      // a list of objects; undefined or None: passed as None
  JinjaValue documents;  // the same
  NextTurn next_turn = NextTurn::kAssistant;
  JinjaValue variables;  // an object with up to 256 more (enable_thinking, ..), none named as those above; or undefined
  absl::CivilSecond now;  // what strftime_now formats: local time
};

// The roles that messages may have: those of the models' templates.
absl::Span<const absl::string_view> ChatRoles();

// Immutable; may be used from any thread.
class ChatTemplate {
 public:
  // The template `name` of a model's folder, as transformers looks for it: DIR/chat_template.jinja ("default") and
  // DIR/additional_chat_templates/NAME.jinja, else tokenizer_config.json's chat_template, a string or a list of {name,
  // template}. With no name: "tool_use" for a conversation with tools if there is one, else "default". The texts of the
  // special tokens of tokenizer_config.json (bos_token, eos_token, pad_token, ..) become variables.
  // NotFound, naming the templates that the folder has, where it has not this one.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_dir, absl::string_view name = "");
  // The template in the file `path` instead, with the special tokens of the model's folder.
  static absl::StatusOr<ChatTemplate> LoadFile(const std::string& path, const std::string& model_dir);
  // What a user names: a file that is there, else one of the model's templates; with nothing the model's own choice.
  static absl::StatusOr<ChatTemplate> Open(const std::string& file_or_name, const std::string& model_dir);
  // From its text; `name` stands for the file in errors. `special_tokens`: variable name and text.
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view text, absl::string_view name,
                                            std::vector<std::pair<std::string, std::string>> special_tokens);

  // InvalidArgument "NAME:LINE:COLUMN: WHAT" where the template raises or fails, ResourceExhausted where it does not
  // end within JinjaLimits; InvalidArgument for variables that cannot be meant. What came with the conversation is
  // tagged as TextOrigin::kMessage, but for roles, where they are one of ChatRoles(): templates build control tokens of
  // them ("<|user|>").
  absl::StatusOr<TaggedText> Render(const ChatInput& input) const;

  // Whether `text` stands in the template that is for conversations with tools.
  bool Mentions(absl::string_view text) const;

 private:
  struct Named {
    std::string name, text;
    JinjaTemplate parsed;
  };
  enum class WithTools : uint8_t { kNo, kYes };
  ChatTemplate() = default;
  const Named& For(WithTools tools) const;

  std::vector<Named> by_name_;  // one, or "default" and others
  std::vector<std::pair<std::string, std::string>> special_tokens_;
};

}  // namespace tokenferry
