// The routes of the front, and the answers that need no rank.
#include <boost/asio/post.hpp>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/api/body_fields.h"
#include "runtime/serve/api/openapi.h"
#include "runtime/serve/dashboard/dashboard_page.h"
#include "runtime/serve/front/front.h"
#include "runtime/serve/http/compact_json.h"
#include "runtime/text/encode_prompt.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;
using Json = nlohmann::ordered_json;

bool Fits(absl::string_view route, absl::string_view path) {
  return absl::EndsWith(route, "/") ? absl::StartsWith(path, route) && path.size() > route.size() : route == path;
}

// What a client may call its request: it is echoed.
bool IsRequestId(absl::string_view id) {
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || absl::StrContains("-_.", c); };
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), allowed);
}

// The same answer, with the request's id in its head.
class NamedExchange final : public HttpExchange {
 public:
  NamedExchange(std::shared_ptr<HttpExchange> inner, std::string id) : inner_(std::move(inner)), id_(std::move(id)) {}
  void Respond(HttpResponse response) override {
    response.fields.emplace_back("X-Request-Id", id_);
    inner_->Respond(std::move(response));
  }
  void StartStream(HttpResponse head) override {
    head.fields.emplace_back("X-Request-Id", id_);
    inner_->StartStream(std::move(head));
  }
  void Write(absl::string_view data) override { inner_->Write(data); }
  void EndStream() override { inner_->EndStream(); }
  void OnGone(std::function<void()> gone) override { inner_->OnGone(std::move(gone)); }

 private:
  const std::shared_ptr<HttpExchange> inner_;
  const std::string id_;
};

HttpResponse JsonResponse(int status, std::string body) {
  HttpResponse response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

// {"prompt": ..} as vLLM has it, {"content": ..} as llama.cpp.
absl::StatusOr<std::string> TokenizeBody(std::string body, const ServedModel& model, const ApiLimits& limits,
                                         FieldTable* asked) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(std::move(body), limits.max_json_depth, asked));
  TF_ASSIGN_OR_RETURN(const auto prompt, fields.String("prompt"));
  TF_ASSIGN_OR_RETURN(const auto content, fields.String("content"));
  if (prompt.has_value() == content.has_value()) return FieldError("prompt", "give either prompt or content, a string");
  TF_ASSIGN_OR_RETURN(const bool special_of_prompt, fields.Switch("add_special_tokens", true));
  TF_ASSIGN_OR_RETURN(const bool special_of_content, fields.Switch("add_special", false));
  const bool special = prompt ? special_of_prompt : special_of_content;
  const std::vector<int32_t> ids = special ? EncodePrompt(model.tokenizer, prompt ? *prompt : *content)
                                           : model.tokenizer.Encode(prompt ? *prompt : *content);
  return CompactJson({{"count", ids.size()}, {"max_model_len", model.max_model_len}, {"tokens", ids}});
}

absl::StatusOr<std::string> DetokenizeBody(std::string body, const ServedModel& model, const ApiLimits& limits,
                                           FieldTable* asked) {
  TF_ASSIGN_OR_RETURN(BodyFields fields, BodyFields::Parse(std::move(body), limits.max_json_depth, asked));
  TF_ASSIGN_OR_RETURN(const auto node, fields.Node("tokens"));
  if (!node) return FieldError("tokens", "is missing");
  TF_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ReadTokenIds(*node, "tokens", model.spec.vocab_size));
  const std::string text = model.tokenizer.Decode(ids);
  return CompactJson({{"prompt", text}, {"content", text}});
}

// The fields that the reader of a route's bodies asks for.
template <auto kRead>
FieldTable FieldsAskedBy(const std::string& example, const ServedModel& model, const ApiLimits& limits) {
  FieldTable asked;
  kRead(example, model, limits, &asked).status().IgnoreError();  // a model without a template cannot chat
  return asked;
}

}  // namespace

const std::vector<Front::Route>& Front::Routes() {
  constexpr auto kNothing = Access::Needs::kNothing, kKey = Access::Needs::kKey;
  static const std::vector<Route> routes = {
      {"POST", "/v1/completions", kKey, &Front::Completions, CompletionFormat, "Continues prompts",
       FieldsAskedBy<ParseCompletionRequest>, R"({"prompt": "Hello", "max_tokens": 4})"},
      {"POST", "/v1/chat/completions", kKey, &Front::ChatCompletions, ChatFormat, "Answers a conversation",
       FieldsAskedBy<ParseChatRequest>, R"({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})"},
      {"POST", "/v1/messages", kKey, &Front::Messages, MessagesFormat, "Answers a conversation in Anthropic's form",
       FieldsAskedBy<ParseMessagesRequest>, R"({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})"},
      {"POST", "/v1/messages/count_tokens", kKey, &Front::CountTokens, MessagesFormat,
       "Counts the tokens of a conversation", FieldsAskedBy<CountMessagesTokens>,
       R"({"messages": [{"role": "user", "content": "Hello"}]})"},
      {"GET", "/v1/models", kKey, &Front::Models, CompletionFormat, "The model that is served"},
      {"GET", "/v1/models/", kKey, &Front::Models, CompletionFormat, "A model by its id"},
      {"POST", "/tokenize", kKey, &Front::Tokenize, CompletionFormat, "Tokens of a text", FieldsAskedBy<TokenizeBody>,
       R"({"prompt": "Hello"})"},
      {"POST", "/detokenize", kKey, &Front::Detokenize, CompletionFormat, "Text of tokens",
       FieldsAskedBy<DetokenizeBody>, R"({"tokens": [0]})"},
      {"GET", "/health", kNothing, &Front::Health, CompletionFormat, "200 while every rank answers"},
      {"GET", "/ready", kNothing, &Front::Ready, CompletionFormat, "200 when requests are taken"},
      {"GET", "/dashboard", kNothing, &Front::Dashboard, CompletionFormat, "A page that shows the server at work"},
      {"GET", "/version", kKey, &Front::Version, CompletionFormat, "The version of the program"},
      {"GET", "/metrics", kKey, &Front::Metrics, CompletionFormat, "Counters for Prometheus"},
      {"GET", "/v1/experts", kKey, &Front::Experts, CompletionFormat, "Load by layer, expert and rank"},
      {"POST", "/admin/drain", kKey, &Front::AdminDrain, CompletionFormat,
       "Ends the server when its requests have ended"},
      {"GET", "/openapi.json", kKey, &Front::OpenApiJson, CompletionFormat, "This description"},
  };
  return routes;
}

void Front::Dispatch(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const Route* route = nullptr;
  std::vector<std::string> methods;
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  for (const Route& candidate : Routes()) {
    if (!Fits(candidate.path, request.path)) continue;
    methods.push_back(candidate.method);
    if (method == candidate.method) route = &candidate;
  }
  const absl::string_view given = request.Field("x-request-id");
  std::string id = IsRequestId(given) ? std::string(given) : absl::StrCat("req-", NextId());
  Call call{std::move(request), std::make_shared<NamedExchange>(std::move(exchange), std::move(id)), "", route};
  const Access::Needs needs = route == nullptr ? Access::Needs::kKey : route->needs;
  if (const auto error = access_->Check(call.request, needs, &call.client)) {
    return Refuse(call, *error);
  }
  if (route != nullptr) return (this->*route->handle)(std::move(call));
  HttpResponse response;
  if (methods.empty()) {
    response =
        HttpError{404, "not_found", "there is no such route: see /v1/models, /v1/completions, /health", ""}.Response();
  } else {
    response = HttpError{405, "method_not_allowed", absl::StrCat("this route takes ", absl::StrJoin(methods, ", ")), ""}
                   .Response();
    response.fields.emplace_back("Allow", absl::StrJoin(methods, ", "));
  }
  call.exchange->Respond(std::move(response));
}

void Front::Refuse(const Call& call, const HttpError& error) const {
  call.exchange->Respond(call.route == nullptr ? error.Response()
                                               : call.route->format(model_->tokenizer)->Error(error));
}

void Front::RespondFromWorker(Call call, std::function<absl::StatusOr<std::string>(const HttpRequest&)> work) {
  if (const auto error = Busy()) return Refuse(call, *error);
  num_parsing_ += 1;
  asio::post(workers_, [this, call = std::move(call), work = std::move(work)]() mutable {
    absl::StatusOr<std::string> body = work(call.request);
    asio::post(io_, [this, call = std::move(call), body = std::move(body)]() mutable {
      num_parsing_ -= 1;
      if (body.ok()) {
        call.exchange->Respond(JsonResponse(200, *std::move(body)));
      } else {
        Refuse(call, ToHttpError(body.status()));
      }
      LeaveWhenDrained();
    });
  });
}

void Front::Completions(Call call) { Generate(std::move(call), "cmpl-", ParseCompletionRequest); }

void Front::ChatCompletions(Call call) { Generate(std::move(call), "chatcmpl-", ParseChatRequest); }

void Front::Messages(Call call) { Generate(std::move(call), "msg_", ParseMessagesRequest); }

void Front::CountTokens(Call call) {
  RespondFromWorker(std::move(call), [this](const HttpRequest& request) -> absl::StatusOr<std::string> {
    TF_ASSIGN_OR_RETURN(const int64_t count, CountMessagesTokens(request.body, *model_, options_.api, nullptr));
    return CompactJson({{"input_tokens", count}});
  });
}

void Front::Tokenize(Call call) {
  RespondFromWorker(std::move(call), [this](const HttpRequest& request) {
    return TokenizeBody(request.body, *model_, options_.api, nullptr);
  });
}

void Front::Detokenize(Call call) {
  RespondFromWorker(std::move(call), [this](const HttpRequest& request) {
    return DetokenizeBody(request.body, *model_, options_.api, nullptr);
  });
}

void Front::OpenApiJson(Call call) {
  RespondFromWorker(std::move(call), [this](const HttpRequest&) -> absl::StatusOr<std::string> {
    std::vector<DescribedRoute> described;
    for (const Route& route : Routes()) {
      DescribedRoute d{route.method, route.path, route.summary, route.needs == Access::Needs::kKey, {}, {}};
      if (route.fields != nullptr) d.example = route.example;
      if (route.fields != nullptr) d.fields = route.fields(route.example, *model_, options_.api);
      described.push_back(std::move(d));
    }
    return CompactJson(OpenApi(described, options_.version));
  });
}

void Front::Models(Call call) {
  const Json model = {{"id", model_->name},
                      {"object", "model"},
                      {"created", created_},
                      {"owned_by", "tokenferry"},
                      {"max_model_len", model_->max_model_len},
                      {"context_length", model_->max_model_len}};
  constexpr absl::string_view kOne = "/v1/models/";
  if (!absl::StartsWith(call.request.path, kOne)) {
    return call.exchange->Respond(JsonResponse(200, CompactJson({{"object", "list"}, {"data", Json::array({model})}})));
  }
  if (call.request.path.substr(kOne.size()) == model_->name)
    return call.exchange->Respond(JsonResponse(200, CompactJson(model)));
  call.exchange->Respond(
      HttpError{404, "model_not_found", absl::StrCat("only '", model_->name, "' is served"), "model"}.Response());
}

std::string Front::StateJson() const {
  Json json;
  json["status"] = phase_ == Phase::kLoading      ? "loading"
                   : phase_ == Phase::kRestarting ? "restarting"
                   : phase_ == Phase::kEnding     ? "ending"
                   : !Responsive()                ? "unresponsive"
                   : draining_                    ? "draining"
                                                  : "ok";
  json["ranks"] = ready_.host_per_rank.size();
  if (phase_ == Phase::kLoading || phase_ == Phase::kRestarting) {
    const auto total = static_cast<double>(std::max<int64_t>(progress_.bytes_total, 1));
    json["progress"] = static_cast<double>(progress_.bytes_done) / total;
    json["seconds_left"] = progress_.seconds_left;
  } else {
    json["hosts"] = ready_.host_per_rank;
    json["seconds_since_sign"] = since_sign_.seconds();
    json["running"] = dispatcher_.stats().num_running_sequences;
    json["waiting"] = dispatcher_.stats().num_waiting_requests;
  }
  return CompactJson(json);
}

void Front::Health(Call call) {
  const bool healthy = phase_ == Phase::kServing && Responsive();
  call.exchange->Respond(JsonResponse(healthy ? 200 : 503, StateJson()));
}

void Front::Ready(Call call) {
  const bool ready = phase_ == Phase::kServing && Responsive() && !draining_;
  call.exchange->Respond(JsonResponse(ready ? 200 : 503, StateJson()));
}

// The page alone: what it shows it asks for, with a key where the routes of the data need one.
void Front::Dashboard(Call call) {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.fields = {{"Content-Security-Policy",
                      "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
                      "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
                     {"X-Content-Type-Options", "nosniff"},
                     {"Referrer-Policy", "no-referrer"},
                     {"Cache-Control", "no-cache"}};
  response.body = std::string(DashboardPage());
  call.exchange->Respond(std::move(response));
}

void Front::Version(Call call) {
  call.exchange->Respond(JsonResponse(200, CompactJson({{"version", options_.version}})));
}

void Front::Metrics(Call call) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  const bool up = phase_ == Phase::kServing && Responsive();
  response.body = metrics_.Text(dispatcher_.stats(), server_->stats(), up ? ready_.host_per_rank.size() : 0,
                                options_.metrics_compat);
  call.exchange->Respond(std::move(response));
}

// [layer][expert] and [layer][rank]: selections computed since the ranks started.
void Front::Experts(Call call) {
  const auto table = [](const std::vector<int64_t>& values, size_t columns) {
    Json rows = Json::array();
    for (size_t at = 0; columns > 0 && at + columns <= values.size(); at += columns) {
      rows.push_back(std::vector<int64_t>(values.begin() + static_cast<ptrdiff_t>(at),
                                          values.begin() + static_cast<ptrdiff_t>(at + columns)));
    }
    return rows;
  };
  const JobStats& stats = job_stats_;
  Json json = {{"steps", stats.num_steps},
               {"num_layers", model_->spec.num_moe_layers()},
               {"num_experts", model_->spec.moe.num_experts},
               {"num_ranks", ready_.host_per_rank.size()}};
  json["expert_rows"] = table(stats.expert_rows, static_cast<size_t>(model_->spec.moe.num_experts));
  json["rank_rows"] = table(stats.rank_rows, ready_.host_per_rank.size());
  json["wait_seconds"] = Json::array();
  for (size_t r = 0, n = ready_.host_per_rank.size(); n > 0 && (r + 1) * n <= stats.wait_seconds.size(); ++r) {
    json["wait_seconds"].push_back(
        std::vector<double>(stats.wait_seconds.begin() + static_cast<ptrdiff_t>(r * n),
                            stats.wait_seconds.begin() + static_cast<ptrdiff_t>((r + 1) * n)));
  }
  json["dropped"] = stats.dropped;
  json["rerouted"] = stats.rerouted;
  call.exchange->Respond(JsonResponse(200, CompactJson(json)));
}

void Front::AdminDrain(Call call) {
  call.exchange->Respond(JsonResponse(200, CompactJson({{"status", "draining"}})));
  Drain();
}

}  // namespace tokenferry
