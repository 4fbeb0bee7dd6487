#include "bench/serve/answer_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/io/json.h"

namespace tokenferry {
namespace {

// `value`[key] where that is some, else null.
const nlohmann::json& Member(const nlohmann::json& value, const char* key) {
  static const nlohmann::json null;
  const auto found = value.find(key);
  return value.is_object() && found != value.end() ? *found : null;
}

std::string TextOf(const nlohmann::json& value) { return value.is_string() ? value.get<std::string>() : ""; }

// What a choice adds: text, reasoning, or a part of a call of a tool. Whether it adds anything, as an answer's first
// event (the role) and its last one (how it ended) may not.
struct Added {
  std::string text;
  bool any = false;
};
Added AddedBy(const nlohmann::json& choice, ServeApi api) {
  if (api == ServeApi::kCompletions) {
    Added added{TextOf(Member(choice, "text"))};
    // A token may have no text of its own: a part of a character, or a special one.
    added.any = !added.text.empty() || Member(choice, "finish_reason").is_null();
    return added;
  }
  const nlohmann::json& delta = Member(choice, "delta");
  Added added{TextOf(Member(delta, "content"))};
  added.any = !added.text.empty() || !Member(delta, "tool_calls").empty();
  for (const char* key : {"reasoning_content", "reasoning"}) added.any |= !TextOf(Member(delta, key)).empty();
  return added;
}

int64_t CountOf(const nlohmann::json& usage, const char* key) {
  const nlohmann::json& count = Member(usage, key);
  return count.is_number_integer() ? count.get<int64_t>() : 0;
}

std::string OneLine(absl::string_view text) {
  constexpr size_t kMost = 300;
  return absl::StrReplaceAll(text.substr(0, kMost), {{"\n", " "}, {"\r", " "}});
}

}  // namespace

std::string ErrorMessage(absl::string_view body) {
  const auto parsed = JsonDocument::Parse(std::string(body), "answer");
  if (!parsed.ok()) return OneLine(body);
  const nlohmann::json& json = parsed->root().value();
  for (const nlohmann::json* at : {&Member(Member(json, "error"), "message"), &Member(json, "message"),
                                   &Member(json, "detail"), &Member(json, "error")}) {
    if (at->is_string()) return OneLine(at->get<std::string>());
  }
  return OneLine(body);
}

absl::Status AnswerReader::OnPiece(absl::string_view piece, int64_t now_ns) {
  return events_.Feed(piece, [&](absl::string_view data) { return OnEvent(data, now_ns); });
}

absl::Status AnswerReader::OnEvent(absl::string_view data, int64_t now_ns) {
  if (done_) return absl::DataLossError(absl::StrCat("an event came behind [DONE]: ", OneLine(data)));
  if (data == "[DONE]") {
    done_ = true;
    return absl::OkStatus();
  }
  ++num_events_;
  TF_ASSIGN_OR_RETURN(const JsonDocument event,
                      JsonDocument::Parse(std::string(data), absl::StrCat("event ", num_events_)));
  const nlohmann::json& json = event.root().value();
  if (!Member(json, "error").is_null()) {
    return absl::InternalError(absl::StrCat("the stream's event ", num_events_, " is an error: ", ErrorMessage(data)));
  }
  if (const nlohmann::json& usage = Member(json, "usage"); usage.is_object()) {
    has_usage_ = true;
    outcome_.input_tokens = CountOf(usage, "prompt_tokens");
    outcome_.output_tokens = CountOf(usage, "completion_tokens");
  }
  const nlohmann::json& choices = Member(json, "choices");
  if (!choices.is_array() || choices.empty()) return absl::OkStatus();
  const Added added = AddedBy(choices[0], api_);
  if (!added.any) return absl::OkStatus();
  outcome_.text += added.text;
  const double since_last = static_cast<double>(now_ns - std::exchange(last_ns_, now_ns)) * 1e-9;
  if (num_tokens_++ == 0) {
    outcome_.ttft_seconds = since_last;
  } else {
    outcome_.itl_seconds.push_back(since_last);
  }
  outcome_.latency_seconds = static_cast<double>(now_ns - sent_ns_) * 1e-9;
  if (!has_usage_) outcome_.output_tokens = num_tokens_;
  return absl::OkStatus();
}

absl::Status AnswerReader::Finish() {
  if (!done_)
    return absl::DataLossError(absl::StrCat("the stream ended without [DONE], after ", num_events_, " events"));
  if (num_tokens_ == 0) return absl::DataLossError("the stream has no token");
  return absl::OkStatus();
}

}  // namespace tokenferry
