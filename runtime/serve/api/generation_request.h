// What a request for text asks for, whichever route it came by: prompts as tokens, and how to continue them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runtime/engine/sampler.h"
#include "runtime/serve/api/api_limits.h"
#include "runtime/serve/api/body_fields.h"
#include "runtime/serve/api/served_model.h"
#include "runtime/serve/tools/output_parser.h"

namespace tokenferry {

struct GenerationRequest {
  struct Prompt {
    std::vector<int32_t> ids;
    std::string text;  // of completions, for echo
  };
  std::vector<Prompt> prompts;  // at least one
  int64_t num_choices = 1;      // of each prompt ("n")
  int64_t max_new_tokens = 0;   // of each choice; 0: only what the prompt is worth (completions with echo)
  // Choice i of a prompt takes seed + i. stop_token_ids has the model's end tokens too, unless they are to be ignored.
  SamplingParams sampling;
  std::vector<std::string> stop;
  int32_t num_logprobs = -1;  // likeliest tokens to report beside each token; -1: no logprobs at all
  bool stream = false, include_usage = false;
  bool echo = false;                  // completions: the prompt's text first
  bool routing = false;               // the experts of every token
  std::optional<OutputRules> output;  // of chats: how the text is taken apart
  std::string cache_salt;
  absl::Duration timeout;
  int64_t num_ignored_fields = 0;
};

// Where routes differ in the fields that they share.
struct RouteFields {
  std::optional<int64_t> max_tokens;  // as the request says
  std::string max_tokens_field;       // its name, for errors
  int64_t default_max_tokens = 0;     // when the request does not say; as many as fit are taken if that is fewer
  std::string stop_field = "stop";
};

// The fields that all routes share. `out` has the prompts already: what is to be generated has to fit behind the
// longest. FieldError, or 400 "context_length_exceeded", or 404 "model_not_found".
absl::Status ReadSharedFields(BodyFields& fields, const ServedModel& model, const ApiLimits& limits,
                              const RouteFields& route, GenerationRequest* out);

// A body of each route. `asked`: see BodyFields.
// POST /v1/completions.
absl::StatusOr<GenerationRequest> ParseCompletionRequest(std::string body, const ServedModel& model,
                                                         const ApiLimits& limits, FieldTable* asked);

// POST /v1/chat/completions.
absl::StatusOr<GenerationRequest> ParseChatRequest(std::string body, const ServedModel& model, const ApiLimits& limits,
                                                   FieldTable* asked);

// POST /v1/messages, Anthropic's.
absl::StatusOr<GenerationRequest> ParseMessagesRequest(std::string body, const ServedModel& model,
                                                       const ApiLimits& limits, FieldTable* asked);
// POST /v1/messages/count_tokens: of the prompt.
absl::StatusOr<int64_t> CountMessagesTokens(std::string body, const ServedModel& model, const ApiLimits& limits,
                                            FieldTable* asked);

}  // namespace tokenferry
