#include "runtime/serve/api/grammar_fields.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/grammar/answer_grammar.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;  // members are written in a schema's order

constexpr const char* kSaysWhichValues[] = {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"};

// A text member of an object; empty: there is none.
std::string TextOf(const Json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

absl::Status ReadResponseFormat(const Json& format, AnswerForm* form) {
  constexpr char kParam[] = "response_format";
  const std::string type = TextOf(format, "type");
  if (type == "text") return absl::OkStatus();
  if (type == "json_object") {
    form->schema = Json{{"type", "object"}};
    return absl::OkStatus();
  }
  if (type != "json_schema") return FieldError(kParam, "the type must be text, json_object or json_schema");
  const auto named = format.find("json_schema");
  if (named == format.end() || !named->is_object() || !named->contains("schema")) {
    return FieldError(kParam, "json_schema must be an object with a schema");
  }
  // Answers are always as the schema says, with strict or without.
  const auto strict = named->find("strict");
  if (strict != named->end() && !strict->is_boolean() && !strict->is_null()) {
    return FieldError(kParam, "json_schema.strict must be true, false or null");
  }
  form->schema = (*named)["schema"];
  form->schema_place = "json_schema.schema";
  return absl::OkStatus();
}

absl::Status AddTool(const Json& tool, size_t idx, AnswerForm* form) {
  const auto function = tool.find("function");
  const std::string name = function == tool.end() ? "" : TextOf(*function, "name");
  constexpr size_t kMaxNameBytes = 64;
  const auto in_name = [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.'; };
  if (name.empty() || name.size() > kMaxNameBytes || !absl::c_all_of(name, in_name)) {
    return FieldError("tools", absl::StrCat("[", idx, "].function.name must have 1 to ", kMaxNameBytes,
                                            " letters, digits, '_', '-' and '.'"));
  }
  CallableTool callable{name, Json{{"type", "object"}, {"additionalProperties", false}},
                        absl::StrCat("[", idx, "].function.parameters")};
  const auto parameters = function->find("parameters");
  if (parameters != function->end() && !parameters->is_null()) callable.parameters = *parameters;
  // What says by other keywords which values there are may not have a type beside them.
  const auto is_there = [&](const char* key) { return callable.parameters.contains(key); };
  if (callable.parameters.is_object() && absl::c_none_of(kSaysWhichValues, is_there)) {
    callable.parameters["type"] = "object";
  }
  form->tools.push_back(std::move(callable));
  return absl::OkStatus();
}

// All tools, or the one that the choice names.
absl::Status AddTools(const Json& body, absl::string_view only, AnswerForm* form) {
  const auto tools = body.find("tools");
  for (size_t i = 0; tools != body.end() && i < tools->size(); ++i) {
    const auto function = (*tools)[i].find("function");
    const bool wanted = only.empty() || (function != (*tools)[i].end() && TextOf(*function, "name") == only);
    if (wanted) TF_RETURN_IF_ERROR(AddTool((*tools)[i], i, form));
  }
  if (!form->tools.empty()) return absl::OkStatus();
  return FieldError("tool_choice", only.empty() ? "needs tools" : "names a function that is not among the tools");
}

absl::Status ReadToolChoice(const Json& body, const ServedModel& model, AnswerForm* form) {
  const Json choice = body.value("tool_choice", Json("auto"));
  const std::string word = choice.is_string() ? choice.get<std::string>() : "";
  const auto function = choice.is_object() ? choice.find("function") : choice.end();
  const std::string name = function == choice.end() ? "" : TextOf(*function, "name");
  if (choice.is_null() || word == "none") return absl::OkStatus();
  if (word != "auto" && word != "required" && (TextOf(choice, "type") != "function" || name.empty())) {
    return FieldError("tool_choice",
                      "must be auto, none, required or {\"type\": \"function\", \"function\": {\"name\": ..}}");
  }
  // Free to choose: only an answer that has to be JSON needs to know what calls look like.
  if (word == "auto" && (!form->schema || form->format == nullptr)) return absl::OkStatus();
  if (model.tool_format == nullptr) {
    return FieldError("tool_choice", "the model's chat template calls tools in no way that is known here");
  }
  form->format = model.tool_format;
  if (!name.empty()) form->calls = CallCount::kOne;
  if (word != "auto") form->schema.reset();
  return AddTools(body, name, form);
}

}  // namespace

absl::Status ReadGrammar(BodyFields& fields, absl::string_view body, const ServedModel& model, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(const auto format, fields.Node("response_format"));
  std::optional<JsonNode> choice;
  if (out->output) {
    TF_ASSIGN_OR_RETURN(choice, fields.Node("tool_choice"));
  }
  if (!format && !choice) return absl::OkStatus();
  const Json json = Json::parse(body);
  AnswerForm form;
  if (format) TF_RETURN_IF_ERROR(ReadResponseFormat(json["response_format"], &form));
  if (out->output) {
    form.thinking = out->output->thinking;
    form.format = out->output->tools;
    form.calls = out->output->calls;
    TF_RETURN_IF_ERROR(ReadToolChoice(json, model, &form));
  }
  if (!form.schema && form.tools.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> grammar = CompileAnswer(form, model.tokenizer);
  if (!grammar.ok()) {
    const bool of_a_tool = !form.schema || absl::StartsWith(grammar.status().message(), "[");
    return FieldError(of_a_tool ? "tools" : "response_format", grammar.status().message());
  }
  out->sampling.grammar = *std::move(grammar);
  return absl::OkStatus();
}

}  // namespace tokenferry
