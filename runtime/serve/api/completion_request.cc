// POST /v1/completions: prompts as texts or tokens.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/api/generation_request.h"
#include "runtime/serve/api/grammar_fields.h"
#include "runtime/text/encode_prompt.h"

namespace tokenferry {
namespace {

constexpr char kShapes[] = "must be a string, a list of strings, a list of token ids, or a list of such lists";

absl::Status AddText(const ServedModel& model, const nlohmann::json& text, GenerationRequest* out) {
  if (!text.is_string()) return FieldError("prompt", kShapes);
  const PromptEnd end = model.spec.has_encoder() ? PromptEnd::kClosed : PromptEnd::kOpen;
  out->prompts.push_back({EncodePrompt(model.tokenizer, text.get<std::string>(), end), text.get<std::string>()});
  return absl::OkStatus();
}

absl::Status AddIds(const ServedModel& model, const JsonNode& list, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadTokenIds(list, "prompt", model.spec.vocab_size));
  std::string text = model.tokenizer.Decode(ids);
  out->prompts.push_back({std::move(ids), std::move(text)});
  return absl::OkStatus();
}

absl::Status ReadPrompts(BodyFields& fields, const ServedModel& model, const ApiLimits& limits,
                         GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(const auto node, fields.Node("prompt"));
  if (!node) return FieldError("prompt", "is missing");
  const nlohmann::json& value = node->value();
  if (value.is_string()) {
    TF_RETURN_IF_ERROR(AddText(model, value, out));
  } else if (value.is_array() && !value.empty() && value[0].is_number()) {
    TF_RETURN_IF_ERROR(AddIds(model, *node, out));
  } else if (value.is_array()) {
    if (static_cast<int64_t>(value.size()) > limits.max_sequences) {
      return FieldError("prompt", absl::StrCat("has ", value.size(), " prompts, and ", limits.max_sequences,
                                               " are allowed (--max-sequences)"));
    }
    for (const nlohmann::json& element : value) {
      TF_RETURN_IF_ERROR(element.is_array() ? AddIds(model, node->At(element), out) : AddText(model, element, out));
    }
  } else {
    return FieldError("prompt", kShapes);
  }
  if (out->prompts.empty()) return FieldError("prompt", "is an empty list");
  for (const auto& prompt : out->prompts) {
    if (prompt.ids.empty()) return FieldError("prompt", "is empty: give at least one token");
  }
  return absl::OkStatus();
}

// Fields of OpenAI's that cannot be ignored, since the answer would be another one.
absl::Status RefuseUnsupported(BodyFields& fields) {
  TF_ASSIGN_OR_RETURN(const auto suffix, fields.String("suffix"));
  if (suffix && !suffix->empty()) return FieldError("suffix", "is not supported");
  return fields.Integer("best_of", 1, 1).status();
}

}  // namespace

absl::StatusOr<GenerationRequest> ParseCompletionRequest(std::string body, const ServedModel& model,
                                                         const ApiLimits& limits, FieldTable* asked) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(body, limits.max_json_depth, asked));
  GenerationRequest request;
  TF_RETURN_IF_ERROR(ReadPrompts(fields, model, limits, &request));
  TF_RETURN_IF_ERROR(RefuseUnsupported(fields));
  TF_RETURN_IF_ERROR(ReadGrammar(fields, body, model, &request));
  TF_ASSIGN_OR_RETURN(request.echo, fields.Switch("echo", false));
  TF_ASSIGN_OR_RETURN(const auto logprobs, fields.Integer("logprobs", 0, limits.max_top_logprobs));
  request.num_logprobs = static_cast<int32_t>(logprobs.value_or(-1));
  request.sampling.num_top_logprobs = std::max(request.num_logprobs, 0);
  // Nothing to generate: the prompt's own text and logprobs.
  TF_ASSIGN_OR_RETURN(const auto max_tokens,
                      fields.Integer("max_tokens", request.echo ? 0 : 1, std::numeric_limits<int32_t>::max()));
  TF_RETURN_IF_ERROR(ReadSharedFields(fields, model, limits, {max_tokens, "max_tokens", 16}, &request));
  return request;
}

}  // namespace tokenferry
