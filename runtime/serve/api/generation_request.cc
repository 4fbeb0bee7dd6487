#include "runtime/serve/api/generation_request.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/engine/generation_defaults.h"
#include "runtime/serve/api/api_status.h"

namespace tokenferry {
namespace {

// JSON numbers of other programs are doubles: a seed that is reported must come back as it was.
constexpr int64_t kMaxSeed = (int64_t{1} << 53) - 1;

absl::Status ReadPenalties(BodyFields& fields, SamplingParams* p) {
  TF_ASSIGN_OR_RETURN(const auto presence, fields.Number("presence_penalty", -2, 2));
  TF_ASSIGN_OR_RETURN(const auto frequency, fields.Number("frequency_penalty", -2, 2));
  TF_ASSIGN_OR_RETURN(const auto repetition,
                      fields.Number("repetition_penalty", kMinRepetitionPenalty, kMaxRepetitionPenalty));
  p->presence_penalty = presence.value_or(0);
  p->frequency_penalty = frequency.value_or(0);
  p->repetition_penalty = repetition.value_or(p->repetition_penalty);
  return absl::OkStatus();
}

// {"token id": bias, ..}
absl::Status ReadLogitBias(BodyFields& fields, const ServedModel& model, const ApiLimits& limits, SamplingParams* p) {
  TF_ASSIGN_OR_RETURN(const auto node, fields.Node("logit_bias"));
  if (!node) return absl::OkStatus();
  if (!node->value().is_object()) return FieldError("logit_bias", "must be an object of token ids and numbers");
  if (static_cast<int>(node->value().size()) > limits.max_logit_biases) {
    return FieldError("logit_bias", absl::StrCat("has ", node->value().size(), " tokens, and ", limits.max_logit_biases,
                                                 " are allowed (--max-logit-bias)"));
  }
  for (const auto& [key, value] : node->value().items()) {
    int32_t token = -1;
    if (!absl::SimpleAtoi(key, &token) || token < 0 || token >= model.spec.vocab_size) {
      return FieldError("logit_bias",
                        absl::StrCat("'", Excerpt(key), "' is no token id from 0 to ", model.spec.vocab_size - 1));
    }
    const double bias = value.is_number() ? value.get<double>() : -1000;
    if (!(bias >= -100 && bias <= 100)) {
      return FieldError("logit_bias", absl::StrCat("the bias of token ", token, " must be a number from -100 to 100"));
    }
    p->logit_bias.push_back({token, bias});
  }
  std::sort(p->logit_bias.begin(), p->logit_bias.end(), [](const auto& a, const auto& b) { return a.token < b.token; });
  const auto same = [](const auto& a, const auto& b) { return a.token == b.token; };
  if (std::adjacent_find(p->logit_bias.begin(), p->logit_bias.end(), same) != p->logit_bias.end()) {
    return FieldError("logit_bias", "names a token twice");
  }
  return absl::OkStatus();
}

absl::Status ReadSampling(BodyFields& fields, const ServedModel& model, const ApiLimits& limits, SamplingParams* p) {
  TF_ASSIGN_OR_RETURN(const auto temperature, fields.Number("temperature", 0, kMaxTemperature));
  TF_ASSIGN_OR_RETURN(const auto top_p, fields.Number("top_p", 0, 1));
  TF_ASSIGN_OR_RETURN(const auto top_k, fields.Integer("top_k", -1, std::numeric_limits<int32_t>::max()));
  TF_ASSIGN_OR_RETURN(const auto min_p, fields.Number("min_p", 0, 1));
  TF_ASSIGN_OR_RETURN(const auto seed,
                      fields.Integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
  const int32_t num_top_logprobs = p->num_top_logprobs;  // the route has set it and the grammar
  std::string grammar = std::move(p->grammar);
  *p = DefaultSampling(model.generation);
  p->num_top_logprobs = num_top_logprobs;
  p->grammar = std::move(grammar);
  // Of a model that does not say how to sample, clients expect OpenAI's default.
  if (!model.generation.do_sample) p->temperature = model.generation.temperature.value_or(1);
  p->temperature = temperature.value_or(p->temperature);
  if (p->temperature < kMinTemperature) p->temperature = 0;
  p->top_p = std::max(kMinTopP, top_p.value_or(p->top_p));
  p->top_k = static_cast<int32_t>(std::max<int64_t>(0, top_k.value_or(p->top_k)));
  p->min_p = min_p.value_or(p->min_p);
  if (seed) {
    p->seed = static_cast<uint64_t>(*seed);
  } else {
    std::random_device entropy;
    p->seed = ((uint64_t{entropy()} << 32) | entropy()) & kMaxSeed;
  }
  TF_RETURN_IF_ERROR(ReadPenalties(fields, p));
  TF_RETURN_IF_ERROR(ReadLogitBias(fields, model, limits, p));
  return Validate(*p);
}

absl::Status ReadStops(BodyFields& fields, const ServedModel& model, const ApiLimits& limits, const std::string& name,
                       GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(out->stop, fields.Strings(name));
  if (static_cast<int>(out->stop.size()) > limits.max_stop_strings) {
    return FieldError(name, absl::StrCat("has ", out->stop.size(), " strings, and ", limits.max_stop_strings,
                                         " are allowed (--max-stop-strings)"));
  }
  for (const std::string& stop : out->stop) {
    if (!stop.empty() && static_cast<int>(stop.size()) <= limits.max_stop_bytes) continue;
    return FieldError(name, absl::StrCat("a string of ", stop.size(), " bytes, and 1 to ", limits.max_stop_bytes,
                                         " are allowed (--max-stop-bytes)"));
  }
  TF_ASSIGN_OR_RETURN(out->sampling.stop_token_ids, fields.TokenIds("stop_token_ids", model.spec.vocab_size));
  if (out->sampling.stop_token_ids.size() > kMaxStopTokens / 2) {
    return FieldError("stop_token_ids", absl::StrCat("has more than ", kMaxStopTokens / 2, " tokens"));
  }
  TF_ASSIGN_OR_RETURN(const bool ignore_eos, fields.Switch("ignore_eos", false));
  if (ignore_eos && !out->sampling.grammar.empty()) {
    return FieldError("ignore_eos", "an answer of a given form has to end where the form does");
  }
  if (!ignore_eos) {
    const auto& eos = model.generation.eos_token_ids;
    out->sampling.stop_token_ids.insert(out->sampling.stop_token_ids.end(), eos.begin(), eos.end());
  }
  return absl::OkStatus();
}

absl::Status ReadChoices(BodyFields& fields, const ApiLimits& limits, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(const auto n, fields.Integer("n", 1, limits.max_sequences));
  out->num_choices = n.value_or(1);
  const auto num_prompts = static_cast<int64_t>(out->prompts.size());
  if (out->num_choices * num_prompts > limits.max_sequences) {
    return FieldError("n",
                      absl::StrCat(num_prompts, num_prompts == 1 ? " prompt" : " prompts", " with n ", out->num_choices,
                                   " is more than ", limits.max_sequences, " sequences (--max-sequences)"));
  }
  return absl::OkStatus();
}

// Every sequence takes a copy of the grammar with it, through the queue to the rank that checks and keeps it.
absl::Status CheckGrammarBytes(const GenerationRequest& request) {
  constexpr size_t kMaxGrammarBytes = 16 << 20;
  const size_t num_sequences = request.prompts.size() * static_cast<size_t>(request.num_choices);
  const size_t size = request.sampling.grammar.size();
  if (size * num_sequences <= kMaxGrammarBytes) return absl::OkStatus();
  return FieldError(
      "n", absl::StrCat("the form of the answer takes ", size, " bytes for each of ", num_sequences, " sequences, and ",
                        kMaxGrammarBytes, " are allowed for all: ask for fewer at a time, or a simpler form"));
}

absl::Status ReadMaxTokens(const ServedModel& model, const RouteFields& route, GenerationRequest* out) {
  int64_t longest = 0;
  for (const auto& prompt : out->prompts) longest = std::max(longest, static_cast<int64_t>(prompt.ids.size()));
  const int64_t room = model.spec.answer_room(longest, model.max_model_len);
  const bool wants_output = route.max_tokens.value_or(1) > 0;
  out->max_new_tokens = route.max_tokens.value_or(std::min(route.default_max_tokens, std::max<int64_t>(room, 1)));
  if (room >= out->max_new_tokens && (room > 0 || !wants_output)) return absl::OkStatus();
  return ToStatus({400, "context_length_exceeded",
                   absl::StrCat("the prompt has ", longest, " tokens and ", out->max_new_tokens,
                                " are to be generated, but the model's context is ", model.max_model_len, " tokens"),
                   route.max_tokens_field});
}

// What other servers know: to pass over one of these would give another answer than the one that was asked for.
absl::Status RefuseFieldsOfOthers(const BodyFields& fields) {
  static constexpr char kForm[] = "is not supported: use response_format";
  constexpr std::pair<const char*, const char*> kFields[] = {
      {"guided_json", kForm},
      {"guided_regex", kForm},
      {"guided_choice", kForm},
      {"guided_grammar", kForm},
      {"structured_outputs", kForm},
      {"json_schema", kForm},
      {"regex", kForm},
      {"ebnf", kForm},
      {"grammar", kForm},
      {"structural_tag", kForm},
      {"functions", "is not supported: use tools"},
      {"function_call", "is not supported: use tool_choice"},
      {"prompt_logprobs", "is not supported: use echo and logprobs of /v1/completions"},
      {"use_beam_search", "is not supported"},
      {"bad_words", "is not supported: use logit_bias"},
      {"allowed_token_ids", "is not supported: use logit_bias"},
      {"logits_processors", "is not supported"},
      {"truncate_prompt_tokens", "is not supported"},
      {"include_stop_str_in_output", "is not supported"},
      {"continue_final_message", "is not supported"},
      {"audio", "is not supported"},
      {"web_search_options", "is not supported"},
  };
  for (const auto& [name, why] : kFields) {
    if (fields.Asks(name)) return FieldError(name, why);
  }
  return absl::OkStatus();
}

absl::Status ReadStreaming(BodyFields& fields, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(out->stream, fields.Switch("stream", false));
  TF_ASSIGN_OR_RETURN(const auto options, fields.Node("stream_options"));
  if (!options) return absl::OkStatus();
  if (!options->value().is_object()) return FieldError("stream_options", "must be an object");
  if (!out->stream) return FieldError("stream_options", "is allowed only with \"stream\": true");
  const auto found = options->value().find("include_usage");
  if (found == options->value().end() || found->is_null()) return absl::OkStatus();
  if (!found->is_boolean()) return FieldError("stream_options.include_usage", "must be true or false");
  out->include_usage = found->get<bool>();
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadSharedFields(BodyFields& fields, const ServedModel& model, const ApiLimits& limits,
                              const RouteFields& route, GenerationRequest* out) {
  TF_ASSIGN_OR_RETURN(const auto name, fields.String("model"));
  if (name && *name != model.name) {
    return ToStatus({404, "model_not_found",
                     absl::StrCat("the model '", Excerpt(*name), "' is not served here, '", model.name, "' is"),
                     "model"});
  }
  TF_RETURN_IF_ERROR(RefuseFieldsOfOthers(fields));
  TF_RETURN_IF_ERROR(ReadChoices(fields, limits, out));
  TF_RETURN_IF_ERROR(CheckGrammarBytes(*out));
  TF_RETURN_IF_ERROR(ReadMaxTokens(model, route, out));
  TF_RETURN_IF_ERROR(ReadSampling(fields, model, limits, &out->sampling));
  TF_RETURN_IF_ERROR(ReadStops(fields, model, limits, route.stop_field, out));
  TF_ASSIGN_OR_RETURN(const auto min_tokens,
                      fields.Integer("min_tokens", 0, std::max<int64_t>(out->max_new_tokens, 0)));
  out->sampling.min_tokens = min_tokens.value_or(0);
  TF_RETURN_IF_ERROR(ReadStreaming(fields, out));
  TF_ASSIGN_OR_RETURN(out->routing, fields.Switch("routing", false));
  TF_ASSIGN_OR_RETURN(const auto salt, fields.String("cache_salt"));
  out->cache_salt = salt.value_or("");
  if (out->cache_salt.size() > 256) return FieldError("cache_salt", "is longer than 256 bytes");
  const double most = absl::ToDoubleSeconds(limits.request_timeout);
  TF_ASSIGN_OR_RETURN(const auto timeout, fields.Number("timeout", 0.001, most));
  out->timeout = absl::Seconds(timeout.value_or(most));
  TF_RETURN_IF_ERROR(fields.Node("user").status());  // known, and of no effect
  out->num_ignored_fields = fields.num_ignored();
  return absl::OkStatus();
}

}  // namespace tokenferry
