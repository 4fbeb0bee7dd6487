#include "bench/serve/serve_bench.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/host/clock.h"
#include "core/io/json.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxErrorBytes = 64 << 10;

HttpCall MakeCall(const ServeLoadOptions& options, const BenchPrompt& prompt) {
  Json body = {{"model", options.model}};
  const bool chat = options.api == ServeApi::kChat;
  if (chat) {
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompt.text}}});
    body["max_completion_tokens"] = prompt.max_tokens;
  } else {
    body["prompt"] = prompt.text;
    body["max_tokens"] = prompt.max_tokens;
  }
  body["temperature"] = options.temperature;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (options.end_of_text == ServeLoadOptions::EndOfText::kIgnored) body["ignore_eos"] = true;
  return {"POST", chat ? "/v1/chat/completions" : "/v1/completions",
          body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

// Sends the requests of a load. Lives on one thread, that of the io_context.
class LoadRun {
 public:
  LoadRun(asio::io_context& io, const ResolvedTarget& target, const ServeLoadOptions& options,
          const std::vector<BenchPrompt>& prompts)
      : io_(io),
        target_(target),
        options_(options),
        prompts_(prompts),
        arrivals_(ArrivalTimes(static_cast<int>(prompts.size()), options.request_rate, options.arrivals, options.seed)),
        arrival_timer_(io) {
    result_.outcomes.resize(prompts.size());
  }

  // Sends all requests that have arrived and may run; called again when the next one arrives, or one has ended.
  void Advance() {
    while (next_ < prompts_.size()) {
      if (options_.max_concurrency > 0 && num_running_ == options_.max_concurrency) return;
      const auto arrival = start_ + absl::ToChronoNanoseconds(absl::Seconds(arrivals_[next_]));
      if (arrival > asio::steady_timer::clock_type::now()) {
        arrival_timer_.expires_at(arrival);  // in place of what it waited for before
        arrival_timer_.async_wait([this](boost::system::error_code error) {
          if (!error) Advance();
        });
        return;
      }
      Send(next_++);
    }
  }

  ServeLoadResult TakeResult() { return std::move(result_); }

 private:
  // What the two callbacks of a request share.
  struct Answer {
    AnswerReader reader;
    int64_t sent_ns;
    std::string error_body;
  };

  void Send(size_t i) {
    num_running_ += 1;
    result_.most_concurrent = std::max(result_.most_concurrent, num_running_);
    const int64_t sent_ns = SteadyNanos();
    const auto answer = std::make_shared<Answer>(Answer{AnswerReader(options_.api, sent_ns), sent_ns, ""});
    const BodySink sink = [answer](const HttpHead& head, absl::string_view piece) {
      if (IsStream(head)) return answer->reader.OnPiece(piece, SteadyNanos());
      const size_t left = kMaxErrorBytes - std::min(kMaxErrorBytes, answer->error_body.size());
      absl::StrAppend(&answer->error_body, piece.substr(0, left));
      return absl::OkStatus();
    };
    Fetch(io_, target_, MakeCall(options_, prompts_[i]), options_.timeout, sink,
          [this, i, answer](const absl::StatusOr<HttpHead>& head) { End(i, *answer, head); });
  }

  void End(size_t i, Answer& answer, const absl::StatusOr<HttpHead>& head) {
    RequestOutcome& outcome = result_.outcomes[i];
    outcome = answer.reader.outcome();
    outcome.start_seconds = static_cast<double>(answer.sent_ns - start_ns_) * 1e-9;
    if (outcome.input_tokens == 0) outcome.input_tokens = prompts_[i].num_units;
    outcome.status = !head.ok() ? head.status() : IsStream(*head) ? answer.reader.Finish() : Refusal(*head, answer);
    result_.duration_seconds = static_cast<double>(SteadyNanos() - start_ns_) * 1e-9;
    num_running_ -= 1;
    Advance();
  }

  static absl::Status Refusal(const HttpHead& head, const Answer& answer) {
    return absl::InternalError(
        absl::StrCat("HTTP ", head.status, " ", head.content_type, ": ", ErrorMessage(answer.error_body)));
  }

  static bool IsStream(const HttpHead& head) {
    return head.status == 200 && absl::StartsWith(head.content_type, "text/event-stream");
  }

  asio::io_context& io_;
  const ResolvedTarget& target_;
  const ServeLoadOptions& options_;
  const std::vector<BenchPrompt>& prompts_;
  const std::vector<double> arrivals_;
  asio::steady_timer arrival_timer_;
  const asio::steady_timer::time_point start_ = asio::steady_timer::clock_type::now();
  const int64_t start_ns_ = SteadyNanos();
  size_t next_ = 0;  // of the prompts
  int num_running_ = 0;
  ServeLoadResult result_;
};

}  // namespace

std::vector<double> ArrivalTimes(int count, double rate, Arrivals arrivals, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> times;
  double at = 0;
  for (int i = 0; i < count; ++i) {
    times.push_back(at);
    if (rate <= 0) continue;
    // Inversion: the next one has the same bits on every machine.
    const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;  // [0, 1)
    at += arrivals == Arrivals::kFixed ? 1 / rate : -std::log1p(-uniform) / rate;
  }
  return times;
}

absl::StatusOr<std::string> FirstModel(const ResolvedTarget& target, absl::Duration timeout) {
  asio::io_context io;
  std::string body;
  absl::StatusOr<HttpHead> head = absl::InternalError("not asked");
  const BodySink sink = [&](const HttpHead&, absl::string_view piece) {
    absl::StrAppend(&body, piece);
    return body.size() <= (4 << 20) ? absl::OkStatus()
                                    : absl::ResourceExhaustedError("the list of models has more than 4 MiB");
  };
  Fetch(io, target, {"GET", "/v1/models", ""}, timeout, sink,
        [&head](const absl::StatusOr<HttpHead>& ended) { head = ended; });
  io.run();
  TF_RETURN_IF_ERROR(head.status());
  const std::string where =
      absl::StrCat("http://", target.target.host, ":", target.target.port, target.target.prefix, "/v1/models");
  if (head->status != 200) {
    return absl::FailedPreconditionError(absl::StrCat(where, " answers ", head->status, ": ", ErrorMessage(body)));
  }
  TF_ASSIGN_OR_RETURN(const JsonDocument json, JsonDocument::Parse(std::move(body), where));
  TF_ASSIGN_OR_RETURN(const JsonNode data, json.root().Child("data"));
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> models, data.Elements());
  if (models.empty()) return data.Error("lists no model");
  TF_ASSIGN_OR_RETURN(const JsonNode id, models[0].Child("id"));
  return id.String();
}

ServeLoadResult RunLoad(const ResolvedTarget& target, const ServeLoadOptions& options,
                        const std::vector<BenchPrompt>& prompts) {
  asio::io_context io(1);
  LoadRun run(io, target, options, prompts);
  run.Advance();
  io.run();
  return run.TakeResult();
}

}  // namespace tokenferry
