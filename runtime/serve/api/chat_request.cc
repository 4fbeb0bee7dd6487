// POST /v1/chat/completions: a conversation, which the model's chat template makes a prompt of.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/api/chat_prompt.h"
#include "runtime/serve/api/generation_request.h"
#include "runtime/serve/api/grammar_fields.h"

namespace tokenferry {
namespace {

absl::Status ReadLogprobs(BodyFields& fields, const ApiLimits& limits, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(const bool logprobs, fields.Switch("logprobs", false));
  TF_ASSIGN_OR_RETURN(const auto top, fields.Integer("top_logprobs", 0, limits.max_top_logprobs));
  if (top.value_or(0) > 0 && !logprobs) return FieldError("top_logprobs", "needs \"logprobs\": true");
  if (logprobs) out->num_logprobs = static_cast<int32_t>(top.value_or(0));
  out->sampling.num_top_logprobs = std::max(out->num_logprobs, 0);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationRequest> ParseChatRequest(std::string body, const ServedModel& model, const ApiLimits& limits,
                                                   FieldTable* asked) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(body, limits.max_json_depth, asked));
  GenerationRequest request;
  TF_RETURN_IF_ERROR(ReadChatPrompt(fields, body, model, &request));
  TF_RETURN_IF_ERROR(ReadGrammar(fields, body, model, &request));
  TF_RETURN_IF_ERROR(ReadLogprobs(fields, limits, &request));
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TF_ASSIGN_OR_RETURN(const auto old_name, fields.Integer("max_tokens", 1, kMost));
  TF_ASSIGN_OR_RETURN(const auto max_tokens, fields.Integer("max_completion_tokens", 1, kMost));
  const RouteFields route{max_tokens ? max_tokens : old_name, max_tokens ? "max_completion_tokens" : "max_tokens",
                          model.max_model_len};
  TF_RETURN_IF_ERROR(ReadSharedFields(fields, model, limits, route, &request));
  return request;
}

}  // namespace tokenferry
