#include "runtime/text/chat/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "core/io/range_file.h"
#include "runtime/text/gguf_tokenizer.h"

namespace tokenferry {
namespace {

using SpecialTexts = std::vector<std::pair<std::string, std::string>>;

struct NamedText {  // a template
  std::string name, text;
  std::string place;  // for errors
};

constexpr int64_t kMaxTemplateBytes = int64_t{1} << 20;
constexpr absl::string_view kDefault = "default", kToolUse = "tool_use";
constexpr absl::string_view kRoles[] = {"system", "developer", "user",    "assistant",
                                        "tool",   "function",  "ipython", "observation"};

// None: there is no such file.
absl::StatusOr<std::optional<std::string>> ReadIfThere(const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, kMaxTemplateBytes);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  TF_RETURN_IF_ERROR(text.status());
  return std::make_optional(*std::move(text));
}

// A special token is a text, or an AddedToken object. False: neither.
absl::StatusOr<bool> TokenText(const JsonNode& node, std::string& text) {
  absl::StatusOr<std::string> plain = node.String();
  if (plain.ok()) {
    text = *std::move(plain);
    return true;
  }
  const auto members = node.Members();
  if (!members.ok()) return false;
  for (const auto& [key, value] : *members) {
    if (key != "content") continue;
    TF_ASSIGN_OR_RETURN(text, value.String());
    return true;
  }
  return false;
}

// bos_token, eos_token and all other *_token keys, and those of extra_special_tokens.
absl::StatusOr<SpecialTexts> SpecialTokensOf(const JsonNode& config) {
  SpecialTexts tokens;
  TF_ASSIGN_OR_RETURN(auto members, config.Members());
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> extra, config.Optional("extra_special_tokens"));
  if (const auto more = extra ? extra->Members() : absl::NotFoundError(""); more.ok()) {
    members.insert(members.end(), more->begin(), more->end());
  }
  for (const auto& [key, value] : members) {
    if (!absl::EndsWith(key, "_token")) continue;
    std::string text;
    TF_ASSIGN_OR_RETURN(const bool found, TokenText(value, text));
    if (found) tokens.emplace_back(key, std::move(text));
  }
  return tokens;
}

// tokenizer_config.json, if the folder has one; of a GGUF file what its metadata says of that.
absl::StatusOr<std::optional<JsonDocument>> ReadConfig(const std::string& model_dir) {
  if (IsGgufPath(model_dir)) {
    TF_ASSIGN_OR_RETURN(const JsonDocument metadata, ReadGgufMetadata(model_dir));
    TF_ASSIGN_OR_RETURN(JsonDocument of_metadata, TokenizerConfigOfGguf(metadata.root(), model_dir));
    return std::make_optional(std::move(of_metadata));
  }
  absl::StatusOr<JsonDocument> config = JsonDocument::ReadFile(absl::StrCat(model_dir, "/tokenizer_config.json"));
  if (absl::IsNotFound(config.status())) return std::nullopt;
  TF_RETURN_IF_ERROR(config.status());
  return std::make_optional(*std::move(config));
}

absl::StatusOr<SpecialTexts> SpecialTokensOf(const std::optional<JsonDocument>& config) {
  return config ? SpecialTokensOf(config->root()) : SpecialTexts();
}

// The key chat_template: one text, or a list of {name, template}.
absl::Status AddTemplates(const JsonNode& config, std::vector<NamedText>& texts) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node, config.Optional("chat_template"));
  if (!node) return absl::OkStatus();
  absl::StatusOr<std::string> single = node->String();
  if (single.ok()) {
    texts.push_back({std::string(kDefault), *std::move(single), absl::StrCat(config.Where(), ": chat_template")});
    return absl::OkStatus();
  }
  const auto elements = node->Elements();
  if (!elements.ok()) return node->Error("must be a text, or a list of objects with name and template");
  for (const JsonNode& element : *elements) {
    TF_ASSIGN_OR_RETURN(const JsonNode name_node, element.Child("name"));
    TF_ASSIGN_OR_RETURN(std::string name, name_node.String());
    TF_ASSIGN_OR_RETURN(const JsonNode text_node, element.Child("template"));
    TF_ASSIGN_OR_RETURN(std::string text, text_node.String());
    const std::string place = absl::StrCat(config.Where(), ": chat_template '", name, "'");
    texts.push_back({std::move(name), std::move(text), place});
  }
  return absl::OkStatus();
}

// DIR/chat_template.jinja, and beside it DIR/additional_chat_templates/NAME.jinja, by name.
absl::Status AddTemplateFiles(const std::string& model_dir, std::vector<NamedText>& texts) {
  const std::string main_file = absl::StrCat(model_dir, "/chat_template.jinja");
  TF_ASSIGN_OR_RETURN(std::optional<std::string> text, ReadIfThere(main_file));
  if (!text) return absl::OkStatus();
  texts.push_back({std::string(kDefault), *std::move(text), main_file});
  const std::string folder = absl::StrCat(model_dir, "/additional_chat_templates");
  std::vector<std::string> names;
  std::error_code error;  // NotFound: there are none
  for (std::filesystem::directory_iterator file(folder, error), end; !error && file != end; file.increment(error)) {
    if (file->path().extension() == ".jinja") names.push_back(file->path().stem().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(folder, ": cannot be listed"));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name == kDefault) continue;
    const std::string path = absl::StrCat(folder, "/", name, ".jinja");
    TF_ASSIGN_OR_RETURN(std::string other, ReadTextFile(path, kMaxTemplateBytes));
    texts.push_back({name, std::move(other), path});
  }
  return absl::OkStatus();
}

// Messages with the tags of their roles taken off.
JinjaValue WithPlainRoles(const JinjaValue& messages) {
  if (messages.sequence() == nullptr) return messages;
  std::vector<JinjaValue> out;
  for (const JinjaValue& message : messages.sequence()->items) {
    const JinjaValue role = message.Get("role");
    if (role.text() == nullptr || absl::c_find(kRoles, role.text()->text()) == std::end(kRoles)) {
      out.push_back(message);
      continue;
    }
    JinjaDict plain = *message.dict();
    plain.Set("role", JinjaValue::Text(role.text()->text(), TextOrigin::kModel));
    out.push_back(JinjaValue::Dict(std::move(plain)));
  }
  return JinjaValue::List(std::move(out));
}

// A conversation's own variables, which come from outside.
absl::Status CheckVariables(const JinjaValue& variables) {
  constexpr size_t kMaxVariables = 256;
  if (variables.dict() == nullptr) return absl::OkStatus();
  const size_t num = variables.dict()->members().size();
  if (num > kMaxVariables) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat_template_kwargs has ", num, " members; at most ", kMaxVariables, " are allowed"));
  }
  for (const absl::string_view name : {"messages", "tools", "documents", "add_generation_prompt"}) {
    if (variables.dict()->Find(name) == nullptr) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("chat_template_kwargs must not have '", name, "', which is a field of its own"));
  }
  return absl::OkStatus();
}

JinjaValue OrNone(const JinjaValue& value) { return value.is_undefined() ? JinjaValue::None() : value; }

}  // namespace

absl::Span<const absl::string_view> ChatRoles() { return kRoles; }

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view text, absl::string_view name,
                                                 SpecialTexts special_tokens) {
  ChatTemplate result;
  TF_ASSIGN_OR_RETURN(JinjaTemplate parsed, JinjaTemplate::Parse(text, name));
  result.by_name_.push_back({std::string(kDefault), std::string(text), std::move(parsed)});
  result.special_tokens_ = std::move(special_tokens);
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::LoadFile(const std::string& path, const std::string& model_dir) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonDocument> config, ReadConfig(model_dir));
  TF_ASSIGN_OR_RETURN(SpecialTexts special_tokens, SpecialTokensOf(config));
  TF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxTemplateBytes));
  return Parse(text, path, std::move(special_tokens));
}

absl::StatusOr<ChatTemplate> ChatTemplate::Open(const std::string& file_or_name, const std::string& model_dir) {
  if (file_or_name.empty()) return Load(model_dir);
  absl::StatusOr<ChatTemplate> file = LoadFile(file_or_name, model_dir);
  return absl::IsNotFound(file.status()) ? Load(model_dir, file_or_name) : file;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonDocument> config, ReadConfig(model_dir));
  ChatTemplate result;
  TF_ASSIGN_OR_RETURN(result.special_tokens_, SpecialTokensOf(config));

  std::vector<NamedText> texts;
  if (!IsGgufPath(model_dir)) TF_RETURN_IF_ERROR(AddTemplateFiles(model_dir, texts));
  if (texts.empty() && config) TF_RETURN_IF_ERROR(AddTemplates(config->root(), texts));
  std::vector<std::string> names;
  for (const NamedText& known : texts) {
    names.push_back(known.name);
    const bool wanted = name.empty() ? known.name == kDefault || known.name == kToolUse : known.name == name;
    if (!wanted) continue;
    TF_ASSIGN_OR_RETURN(JinjaTemplate parsed, JinjaTemplate::Parse(known.text, known.place));
    result.by_name_.push_back({name.empty() ? known.name : std::string(kDefault), known.text, std::move(parsed)});
  }
  if (!result.by_name_.empty()) return result;
  return absl::NotFoundError(absl::StrCat(
      model_dir, ": has no chat template", name.empty() ? "" : absl::StrCat(" '", name, "'"),
      names.empty() ? "; give one with --chat-template FILE" : absl::StrCat(", but ", absl::StrJoin(names, ", "))));
}

const ChatTemplate::Named& ChatTemplate::For(WithTools tools) const {
  const Named* chosen = &by_name_.front();
  for (const absl::string_view wanted : {kDefault, tools == WithTools::kYes ? kToolUse : kDefault}) {
    for (const Named& named : by_name_) {
      if (named.name == wanted) chosen = &named;
    }
  }
  return *chosen;
}

bool ChatTemplate::Mentions(absl::string_view text) const { return absl::StrContains(For(WithTools::kYes).text, text); }

absl::StatusOr<TaggedText> ChatTemplate::Render(const ChatInput& input) const {
  TF_RETURN_IF_ERROR(CheckVariables(input.variables));
  JinjaVariables variables;
  for (const auto& [name, text] : special_tokens_) {
    variables.emplace_back(name, JinjaValue::Text(text, TextOrigin::kModel));
  }
  if (input.variables.dict() != nullptr) {
    for (const auto& [name, value] : input.variables.dict()->members()) {
      if (name.text() != nullptr) variables.emplace_back(name.text()->text(), value);
    }
  }
  variables.emplace_back("messages", WithPlainRoles(input.messages));
  variables.emplace_back("tools", OrNone(input.tools));
  variables.emplace_back("documents", OrNone(input.documents));
  variables.emplace_back("add_generation_prompt", JinjaValue::Bool(input.next_turn == NextTurn::kAssistant));
  return For(input.tools.Truthy() ? WithTools::kYes : WithTools::kNo).parsed.Render(variables, input.now);
}

}  // namespace tokenferry
