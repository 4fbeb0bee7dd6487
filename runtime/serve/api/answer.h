// What came of a request, and how a route writes it: whole, or as events of a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/serve/api/generation_request.h"
#include "runtime/serve/http/http_error.h"
#include "runtime/serve/protocol/messages.h"
#include "runtime/serve/tools/output_parser.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {

// A token of a choice, of its output or, with echo, of its prompt.
struct AnswerToken {
  ReportedToken reported;
  std::vector<ReportedToken> top;
  std::vector<int32_t> expert_idx;  // [MoE layers, top_k], or empty
  bool has_logprob = true;          // not the first token of a prompt
};

enum class ChoiceEnd : uint8_t { kNone, kStopToken, kStopString, kLength, kToolCalls };

// A part of a choice: everything when the answer is whole, else what is new.
struct ChoicePart {
  int64_t choice_idx = 0;
  std::string text;                 // of completions
  std::vector<OutputPiece> pieces;  // of chats
  std::vector<AnswerToken> tokens;
  ChoiceEnd end = ChoiceEnd::kNone;
  std::string stop_string;  // kStopString: which
  int64_t text_offset = 0;  // in bytes, of `text` within the choice
};

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

// What every part of an answer repeats.
struct AnswerFacts {
  std::string id;       // "cmpl-.."
  int64_t created = 0;  // seconds since 1970
  std::string model;
  int64_t prompt_tokens = 0;
  int64_t seed = 0;  // as the request says
  int32_t num_logprobs = -1;
  bool routing = false;
  int64_t num_moe_layers = 0, top_k = 0;  // of AnswerToken::expert_idx
};

// A tool call's id, different from that of any other call: PREFIX and numbers.
std::string CallId(absl::string_view prefix, const AnswerFacts& facts, int64_t choice_idx, int64_t call_idx);
// The JSON object that a text is; none where it is something else, or unfinished.
std::optional<nlohmann::ordered_json> ParseObject(absl::string_view text);

// Of one route. Every function returns text that is ready to be sent; stream events end with their empty line.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;
  virtual std::string Whole(const AnswerFacts& facts, absl::Span<const ChoicePart> choices, const Usage& usage) = 0;
  virtual std::string StreamBegin(const AnswerFacts& facts, int64_t num_choices) = 0;
  virtual std::string StreamPart(const AnswerFacts& facts, const ChoicePart& part) = 0;
  // `usage`: null when it was not asked for.
  virtual std::string StreamEnd(const AnswerFacts& facts, const Usage* usage) = 0;
  virtual std::string StreamError(const HttpError& error) = 0;
  // Instead of any of these.
  virtual HttpResponse Error(const HttpError& error) { return error.Response(); }
};

std::unique_ptr<AnswerFormat> CompletionFormat(Tokenizer tokenizer);
std::unique_ptr<AnswerFormat> ChatFormat(Tokenizer tokenizer);
std::unique_ptr<AnswerFormat> MessagesFormat(Tokenizer tokenizer);  // Anthropic's

}  // namespace tokenferry
